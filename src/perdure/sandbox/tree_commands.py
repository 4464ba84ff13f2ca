"""`touch` and `mkfifo` for a `Tree`: bashkit's interface for file systems has no times and no pipes."""

from __future__ import annotations

import calendar
import posixpath
import re
import time
from functools import partial
from typing import TYPE_CHECKING

from perdure.domain.paths import MOUNT
from perdure.sandbox.commands import Wrong, guarded, native, say
from perdure.sandbox.dates import moment
from perdure.sandbox.tree import Link, Tree, TreeError

if TYPE_CHECKING:
    import bashkit

_MAX_LINKS = 20
_STAMP = re.compile(r"(\d\d)?(\d\d)?(\d{8})(?:\.(\d\d))?")
_WITH_VALUE = {
    "-d": "-d",
    "--date": "-d",
    "-r": "-r",
    "--reference": "-r",
    "-t": "-t",
    "-m": "-m",
    "--mode": "-m",
}


def register_for(shell: bashkit.Bash, tree: Tree) -> None:
    """Give the shell these commands, for the tree that is mounted in it."""
    shell.add_command("touch", guarded(partial(_touch, tree)))
    shell.add_command("mkfifo", guarded(partial(_mkfifo, tree)))


async def _touch(tree: Tree, context: bashkit.CommandContext) -> int:
    values, flags, names = _arguments(context, "drt")
    if not names:
        raise Wrong("missing file operand")
    when, code = await _when(context, values), 0
    given = ["-c"] if "c" in flags else []
    elsewhere = []
    for name in names:
        path = _inside(tree, context, name)
        if path is None:
            elsewhere.append(name)
            continue
        try:
            if not tree.exists(path):
                if "c" in flags:
                    continue
                tree.write(path, b"")
            tree.set_time(path, time.time() if when is None else when)
        except TreeError as error:
            why = "No such file or directory" if error.problem == "not_found" else str(error)
            await say(context, f"cannot touch '{name}': {why}")
            code = 1
    if elsewhere:
        date = [] if when is None else ["-d", f"@{int(when)}"]
        code = await native(context, [*given, *date, "--", *elsewhere]) or code
    return code


async def _mkfifo(tree: Tree, context: bashkit.CommandContext) -> int:
    values, _, names = _arguments(context, "m")
    if not names:
        raise Wrong("missing operand")
    mode = values.get("-m", "644")
    if not re.fullmatch(r"[0-7]{1,4}", mode):
        raise Wrong(f"invalid mode '{mode}'")
    elsewhere, code = [], 0
    for name in names:
        path = _inside(tree, context, name, follow=False)
        if path is None:
            elsewhere.append(name)
            continue
        try:
            tree.make_pipe(path, int(mode, 8))
        except TreeError as error:
            why = "No such file or directory" if error.problem == "not_found" else str(error)
            await say(context, f"cannot create fifo '{name}': {why}")
            code = 1
    return (await native(context, ["-m", mode, *elsewhere]) if elsewhere else 0) or code


def _arguments(context: bashkit.CommandContext, valued: str) -> tuple[dict[str, str], str, list[str]]:
    """Return the options that have a value, the letters of the others, and the names."""
    values: dict[str, str] = {}
    flags, names, waiting = "", list[str](), [*context.argv]
    while waiting:
        word = waiting.pop(0)
        long, _, value = word.partition("=")
        if word == "--":
            return values, flags, [*names, *waiting]
        if long.startswith("--"):
            option = _WITH_VALUE.get(long)
            if option is not None and option[1] in valued:
                values[option] = value or (waiting.pop(0) if waiting else "")
            elif long == "--no-create":
                flags += "c"
            elif long not in ("--no-dereference", "--time"):
                raise Wrong(f"unrecognized option '{word}'")
        elif word.startswith("-") and word != "-":
            short, at = word[1:], 0
            while at < len(short):
                if short[at] in valued:
                    rest = short[at + 1 :]
                    if not rest and not waiting:
                        raise Wrong(f"option requires an argument -- '{short[at]}'")
                    values[f"-{short[at]}"] = rest or waiting.pop(0)
                    break
                if short[at] not in "acfhm":
                    raise Wrong(f"invalid option -- '{short[at]}'")
                flags += short[at]
                at += 1
        else:
            names.append(word)
    return values, flags, names


async def _when(context: bashkit.CommandContext, values: dict[str, str]) -> float | None:
    """The time to set, in seconds since 1970; None for the current one."""
    if "-r" in values:
        path = posixpath.normpath(posixpath.join(context.cwd, values["-r"]))
        if not context.fs.exists(path):
            raise Wrong(f"failed to get attributes of '{values['-r']}': No such file or directory")
        return float(context.fs.stat(path)["modified"])
    if "-t" in values:
        return _stamp(values["-t"])
    if "-d" not in values:
        return None
    text = values["-d"]
    if re.fullmatch(r"@-?\d{1,12}(\.\d+)?", text):
        return float(text[1:])
    seconds = moment(text, context.env.get("TZ"))
    if seconds is None:
        raise Wrong(f"invalid date format '{text}'")
    return float(seconds)


def _stamp(text: str) -> float:
    """Read [[CC]YY]MMDDhhmm[.ss]."""
    match = _STAMP.fullmatch(text)
    try:
        if match is None:
            raise ValueError(text)
        first, second, rest, seconds = match.groups()
        now = time.gmtime().tm_year
        if second is not None:
            year = int(first + second)
        else:
            year = now if first is None else int(first) + (2000 if int(first) < 69 else 1900)
        return float(calendar.timegm(time.strptime(f"{year:04}{rest}{seconds or '00'}", "%Y%m%d%H%M%S")))
    except ValueError:
        raise Wrong(f"invalid date format '{text}'") from None


def _inside(tree: Tree, context: bashkit.CommandContext, name: str, *, follow: bool = True) -> str | None:
    """The path in the tree that a name means, behind links; None if it is elsewhere."""
    path = posixpath.normpath(posixpath.join(context.cwd, name))
    for _ in range(_MAX_LINKS):
        if not path.startswith(f"{MOUNT}/"):
            return None
        inner = path.removeprefix(MOUNT)
        found = tree.look(inner) if follow and tree.exists(inner) else None
        if not isinstance(found, Link):
            return inner
        path = posixpath.normpath(posixpath.join(posixpath.dirname(path), found.target))
    raise Wrong(f"cannot touch '{name}': Too many levels of symbolic links")
