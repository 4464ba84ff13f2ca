"""Commands that the shell runs instead of bashkit's own, where those end early, silently, or lack options.

A command either writes its output itself, or hands corrected arguments to bashkit's own in an inner shell on
the same files. Pipes are live: a command whose reader has gone gets a BrokenPipeError.
"""

from __future__ import annotations

import os
import posixpath
import re
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

from perdure.sandbox.dates import moment
from perdure.sandbox.listing import list_files

if TYPE_CHECKING:
    import bashkit

MAX_ENDLESS = 12 << 20
"""Bytes after which a source without an end stops with an error: more than any file of the shell can hold."""

ELSEWHERE = (
    "ipython", "node", "nodejs", "npm", "npx", "pip", "pip3", "python", "python2", "python3", "uv",
)  # fmt: skip
PROGRAMS = (
    "not in this shell. Python runs with the tool run_python, on the same files; if you do not have this "
    "tool, the session needs the capability code_interpreter. Other languages do not run here: use the "
    "shell's own tools (awk, jq, sed)"
)
PACKAGES = (
    "packages cannot be installed here. Python runs with the tool run_python (capability code_interpreter), "
    "with the packages that the server's operator has installed"
)

_PIECE = 32 * 1024
_DEVICES = ("/dev/zero", "/dev/urandom", "/dev/random")

Run = Callable[["bashkit.CommandContext"], Awaitable[int]]


def register(shell: bashkit.Bash) -> None:
    """Give the shell these commands."""
    for name, run in _COMMANDS.items():
        shell.add_command(name, guarded(run))


def guarded(run: Run) -> Run:
    """Make a command of a function: its errors are told on standard error."""

    async def answer(context: bashkit.CommandContext) -> int:
        try:
            return await run(context)
        except BrokenPipeError:
            return 141  # as the signal SIGPIPE ends a command whose reader has gone
        except Wrong as error:
            await say(context, str(error))
            return error.code
        except RuntimeError as error:  # bashkit's limits, and files that cannot be read
            await say(context, str(error).removeprefix("io error: "))
            return 1

    return answer


class Wrong(Exception):
    """Why a command fails."""

    def __init__(self, reason: str, code: int = 1) -> None:
        super().__init__(reason)
        self.code = code


async def say(context: bashkit.CommandContext, text: str) -> None:
    """Write a line to standard error, after the command's name."""
    await context.stderr.write(f"{context.name}: {text}\n".encode())


async def native(context: bashkit.CommandContext, arguments: list[str]) -> int:
    """Run bashkit's own command with other arguments, on the same files."""
    from bashkit import Bash

    inner = Bash()
    inner.mount("/", context.fs)
    timezone = f"TZ={shlex.quote(context.env['TZ'])} " if "TZ" in context.env else ""
    script = f"cd {shlex.quote(context.cwd)} && {timezone}{shlex.join([context.name, *arguments])}"
    result = await inner.execute(script)
    await context.stdout.write(result.stdout.encode())
    await context.stderr.write(result.stderr.encode())
    return result.exit_code


async def _write(context: bashkit.CommandContext, text: str) -> None:
    data = text.encode("utf-8", "surrogateescape")
    for at in range(0, len(data), _PIECE):
        await context.stdout.write(data[at : at + _PIECE])


# --- sources without an end
# -----------------------------------------------------------------------------------------------------------


async def _yes(context: bashkit.CommandContext) -> int:
    line = f"{' '.join(context.argv) or 'y'}\n".encode("utf-8", "surrogateescape")
    return await _endless(context, line * max(1, _PIECE // len(line)), "yes")


async def _endless(context: bashkit.CommandContext, piece: bytes, source: str) -> int:
    written = 0
    while written < MAX_ENDLESS:
        await context.stdout.write(os.urandom(_PIECE) if source.endswith("random") else piece)
        written += len(piece)
    await say(context, f"{source} has no end: stopped after {written} bytes. Limit it with head")
    return 1


def _path(context: bashkit.CommandContext, name: str) -> str:
    return posixpath.normpath(posixpath.join(context.cwd, name))


async def _pieces(context: bashkit.CommandContext, name: str) -> AsyncIterator[bytes]:
    """The content of a file, of a device, or of standard input."""
    path = _path(context, name)
    if name in ("-", "/dev/stdin"):
        async for piece in context.stdin:
            yield piece
    elif path in _DEVICES:
        written = 0
        while written < MAX_ENDLESS:
            yield bytes(_PIECE) if path == "/dev/zero" else os.urandom(_PIECE)
            written += _PIECE
        raise Wrong(f"{path} has no end: stopped after {written} bytes. Limit it with head -c")
    else:
        if not context.fs.exists(path):
            raise Wrong(f"{name}: No such file or directory")
        if context.fs.stat(path)["file_type"] == "directory":
            raise Wrong(f"{name}: Is a directory")
        content = context.fs.read_file(path)
        for at in range(0, len(content), _PIECE):
            yield content[at : at + _PIECE]


async def _cat(context: bashkit.CommandContext) -> int:
    options = [each for each in context.argv if each.startswith("-") and each not in ("-", "-u", "--")]
    names = [each for each in context.argv if each == "-" or not each.startswith("-")] or ["-"]
    if options:
        # bashkit's own reads no standard input in an inner shell, so it gets a file instead.
        if "-" in names:
            data = b"".join([piece async for piece in context.stdin])
            context.fs.write_file("/tmp/.stdin", data)  # noqa: S108 (inside the sandbox's own files)
            names = ["/tmp/.stdin" if each == "-" else each for each in names]  # noqa: S108
        return await native(context, [*options, "--", *names])
    code = 0
    for name in names:
        try:
            async for piece in _pieces(context, name):
                await context.stdout.write(piece)
        except Wrong as error:
            await say(context, str(error))
            code = 1
    return code


_COUNT = re.compile(r"([+-]?\d+)([bkKmMgG]?)[iB]*")
_UNITS = {"": 1, "b": 512, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


async def _head(context: bashkit.CommandContext) -> int:
    count, lines, names, headers = 10, True, [], None
    waiting = [*context.argv]
    while waiting:
        word = waiting.pop(0)
        name, _, value = word.partition("=")
        if word in ("-n", "-c", "--lines", "--bytes"):
            if not waiting:
                raise Wrong(f"option requires an argument -- '{word.lstrip('-')}'")
            count, lines = _count(waiting.pop(0)), word in ("-n", "--lines")
        elif name in ("--lines", "--bytes") and value:
            count, lines = _count(value), name == "--lines"
        elif re.fullmatch(r"-[qv]*[nc].+", word):
            flags = re.sub(r"[nc].*$", "", word)
            count, lines = _count(word[len(flags) + 1 :]), word[len(flags)] == "n"
            headers = flags.endswith("v") if len(flags) > 1 else headers
        elif re.fullmatch(r"-\d+", word):
            count, lines = int(word[1:]), True
        elif word in ("-q", "--quiet", "--silent", "-v", "--verbose"):
            headers = word in ("-v", "--verbose")
        elif word.startswith("-") and word not in ("-", "--"):
            raise Wrong(f"invalid option -- '{word.lstrip('-')}'")
        elif word != "--":
            names.append(word)
    code = 0
    for at, name in enumerate(names or ["-"]):
        try:
            if headers or (headers is None and len(names) > 1):
                title = "standard input" if name == "-" else name
                await _write(context, f"{chr(10) if at else ''}==> {title} <==\n")
            await _first(context, name, count, lines=lines)
        except Wrong as error:
            await say(context, f"cannot open '{name}' for reading: {error}".replace(f": {name}:", ":"))
            code = 1
    return code


def _count(text: str) -> int:
    match = _COUNT.fullmatch(text)
    if match is None:
        raise Wrong(f"invalid number of lines or bytes: '{text}'")
    return int(match[1]) * _UNITS[match[2].lower()]


async def _first(context: bashkit.CommandContext, name: str, count: int, *, lines: bool) -> None:
    """Write the first so many lines or bytes of a source; all but the last ones if `count` is negative."""
    if count < 0:
        data = b"".join([piece async for piece in _pieces(context, name)])
        kept = b"".join(data.splitlines(keepends=True)[:count]) if lines else data[:count]
        await _write(context, kept.decode("utf-8", "surrogateescape"))
        return
    if count == 0:
        return
    async for piece in _pieces(context, name):
        if not lines:
            await context.stdout.write(piece[:count])
            count -= len(piece)
        elif piece.count(b"\n") < count:
            await context.stdout.write(piece)
            count -= piece.count(b"\n")
        else:
            await context.stdout.write(_lines(piece, count))
            count = 0
        if count <= 0:
            return


def _lines(piece: bytes, count: int) -> bytes:
    """The first so many lines of a piece that has at least as many."""
    at = -1
    for _ in range(count):
        at = piece.index(b"\n", at + 1)
    return piece[: at + 1]


async def _seq(context: bashkit.CommandContext) -> int:
    arguments, plain = [*context.argv], True
    if (
        len(arguments) > 3
        or not arguments
        or not all(re.fullmatch(r"-?\d{1,15}", each) for each in arguments)
    ):
        plain = False
    if not plain:
        return await native(context, arguments)  # formats, separators, fractions
    numbers = [int(each) for each in arguments]
    first = numbers[0] if len(numbers) > 1 else 1
    step = numbers[1] if len(numbers) == 3 else 1
    if step == 0:
        raise Wrong("invalid Zero increment value: '0'")
    written, batch = 0, 2_000
    series = range(first, numbers[-1] + (1 if step > 0 else -1), step)
    for at in range(0, len(series), batch):
        piece = "".join(f"{number}\n" for number in series[at : at + batch]).encode()
        await context.stdout.write(piece)
        written += len(piece)
        if written > MAX_ENDLESS:
            raise Wrong(f"stopped after {written} bytes: ask for a shorter series")
    return 0


# --- options that bashkit's own commands lack
# -----------------------------------------------------------------------------------------------------------


async def _copy_or_move(context: bashkit.CommandContext) -> int:
    """`cp` and `mv` with -t, -T, -n and -v."""
    options, names, target, alone, verbose, spare = [], [], None, False, False, False
    waiting = [*context.argv]
    while waiting:
        word = waiting.pop(0)
        if word == "--":
            names += waiting
            break
        long, _, value = word.partition("=")
        short = word[1:] if re.fullmatch(r"-[a-zA-Z]+", word) else ""
        verbose, spare = verbose or "v" in short, spare or "n" in short
        if long == "--target-directory" or "t" in short:
            target = value or short.partition("t")[2] or (waiting.pop(0) if waiting else "")
            short = short.partition("t")[0]
        elif not word.startswith("-") or word == "-":
            names.append(word)
        elif word in ("--verbose", "--no-clobber", "--no-target-directory"):
            verbose, spare = verbose or word == "--verbose", spare or word == "--no-clobber"
            alone = alone or word == "--no-target-directory"
        elif not short:
            options.append(word)
        alone = alone or "T" in short
        kept = "".join(letter for letter in short if letter not in "vnT")
        options += [f"-{kept}"] if kept else []
    if target is None and len(names) < 2:
        raise Wrong("missing destination file operand" if names else "missing file operand")
    goal = names.pop() if target is None else target
    return await _transfer(context, options, names, goal, folder=target is not None, alone=alone,
                           verbose=verbose, spare=spare)  # fmt: skip


async def _transfer(
    context: bashkit.CommandContext,
    options: list[str],
    names: list[str],
    goal: str,
    *,
    folder: bool,
    alone: bool,
    verbose: bool,
    spare: bool,
) -> int:
    is_folder = _is_folder(context, goal)
    if (folder or len(names) > 1) and not is_folder:
        raise Wrong(f"target '{goal}' is not a directory")
    if alone and is_folder:
        raise Wrong(f"cannot overwrite directory '{goal}' with non-directory")
    if not names:
        raise Wrong("missing file operand")
    ends = {
        name: posixpath.join(goal, posixpath.basename(name.rstrip("/"))) if is_folder else goal
        for name in names
    }
    wanted = [name for name in names if not (spare and context.fs.exists(_path(context, ends[name])))]
    if not wanted:
        return 0
    code = await native(context, [*options, "--", *wanted, goal])
    if verbose and code == 0:
        mark = "renamed " if context.name == "mv" else ""
        await _write(context, "".join(f"{mark}'{name}' -> '{ends[name]}'\n" for name in wanted))
    return code


def _is_folder(context: bashkit.CommandContext, name: str) -> bool:
    path = _path(context, name)
    return context.fs.exists(path) and context.fs.stat(path)["file_type"] == "directory"


async def _date(context: bashkit.CommandContext) -> int:
    """`date -d` with relative items: `2024-02-29 +1 day`, `1 week ago`, `1 Mar 2024`."""
    arguments = [*context.argv]
    for at, word in enumerate(arguments):
        long, _, value = word.partition("=")
        attached = re.fullmatch(r"-u?d(.*)", word, re.DOTALL)
        if word == "--date" or (attached is not None and not attached[1]):
            if at + 1 >= len(arguments):
                break
            text, span = arguments[at + 1], 2
        elif long == "--date" or attached is not None:
            text, span = attached[1] if attached is not None else value, 1
        else:
            continue
        universal = word.startswith("-u") or "-u" in arguments or "--utc" in arguments
        seconds = moment(text, None if universal else context.env.get("TZ"))
        if seconds is not None:
            given = ["-u"] if word.startswith("-ud") else []
            arguments[at : at + span] = [*given, "-d", f"@{seconds}"]
        break
    return await native(context, arguments)


async def _ls(context: bashkit.CommandContext) -> int:
    options = "".join(each[1:] for each in context.argv if re.fullmatch(r"-[a-zA-Z0-9]+", each))
    long = {"--reverse": "r", "--sort=size": "S", "--sort=time": "t", "--sort=extension": "X",
            "--sort=version": "v", "--human-readable": "h", "--all": "a", "--almost-all": "A"}  # fmt: skip
    options += "".join(long.get(each, "") for each in context.argv)
    arguments = [each for each in context.argv if not each.startswith("--color")]
    others = [each for each in arguments if each.startswith("--") and each not in long and each != "--"]
    # Recursion, colors and the like are bashkit's; it has no other orders, and no sizes for people.
    if others or set(options) - set("SrtXvhp1laAUgonGd") or not set(options) & set("SrXvhp"):
        return await native(context, arguments)
    names = [each for each in arguments if not each.startswith("-")]
    text, errors = list_files(context.fs, context.cwd, names, options)
    await _write(context, text)
    for error in errors:
        await say(context, error)
    return 2 if errors else 0


# --- programs that are elsewhere
# -----------------------------------------------------------------------------------------------------------


async def _elsewhere(context: bashkit.CommandContext) -> int:
    await say(context, PACKAGES if context.name.startswith(("pip", "npm")) else PROGRAMS)
    return 127


_COMMANDS: dict[str, Run] = {
    "cat": _cat,
    "cp": _copy_or_move,
    "date": _date,
    "head": _head,
    "ls": _ls,
    "mv": _copy_or_move,
    "seq": _seq,
    "yes": _yes,
    **dict.fromkeys(ELSEWHERE, _elsewhere),
}
