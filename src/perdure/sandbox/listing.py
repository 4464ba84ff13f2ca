"""Lists files as `ls` does, in the orders and with the sizes that bashkit's own lacks."""

from __future__ import annotations

import posixpath
import re
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import bashkit

Entry = tuple[str, dict[str, Any]]


def list_files(files: bashkit.FileSystem, cwd: str, names: list[str], options: str) -> tuple[str, list[str]]:
    """Return the list, and the errors.

    Args:
        options: letters of S, t, X, v, U, r, h, p, l, g, o, 1, a, A and d, in their order.
    """
    alone: list[Entry] = []
    folders: list[tuple[str, str]] = []
    errors: list[str] = []
    for name in names or ["."]:
        path = posixpath.normpath(posixpath.join(cwd, name))
        if not files.exists(path):
            errors.append(f"cannot access '{name}': No such file or directory")
        elif files.stat(path)["file_type"] == "directory" and "d" not in options:
            folders.append((name, path))
        else:
            alone.append((name, files.stat(path)))
    blocks = [_lines(_ordered(alone, options), options)] if alone else []
    for name, path in folders:
        entries = [(entry["name"], entry["metadata"]) for entry in files.read_dir(path)]
        entries = [entry for entry in entries if not entry[0].startswith(".") or set(options) & set("aA")]
        if "a" in options:
            entries += [(".", files.stat(path)), ("..", files.stat(posixpath.dirname(path)))]
        head = f"{name}:\n" if len(names) > 1 else ""
        total = (
            f"total {sum(-(-_size(each) // 1024) for each in entries)}\n" if set(options) & set("lgo") else ""
        )
        blocks.append(head + total + _lines(_ordered(entries, options), options))
    return "\n".join(blocks), errors


def _ordered(entries: list[Entry], options: str) -> list[Entry]:
    order = next((letter for letter in reversed(options) if letter in "StXvU"), "")
    entries = entries if order == "U" else sorted(entries, key=lambda entry: entry[0])
    if order == "S":
        entries.sort(key=_size, reverse=True)
    elif order == "t":
        entries.sort(key=lambda entry: float(entry[1]["modified"]), reverse=True)
    elif order == "X":
        entries.sort(key=lambda entry: posixpath.splitext(entry[0])[1])
    elif order == "v":
        entries.sort(key=lambda entry: _version(entry[0]))
    return entries[::-1] if "r" in options else entries


def _version(name: str) -> list[tuple[int, int, str]]:
    return [
        (1, int(part), "") if part.isdecimal() else (0, 0, part) for part in re.split(r"(\d{1,18})", name)
    ]


def _size(entry: Entry) -> int:
    return int(entry[1]["size"])


def _lines(entries: list[Entry], options: str) -> str:
    if not set(options) & set("lgo"):
        return "".join(f"{_name(entry, options)}\n" for entry in entries)
    sizes = [human(_size(entry)) if "h" in options else str(_size(entry)) for entry in entries]
    width = max(map(len, sizes), default=0)
    return "".join(
        f"{_mode(entry)} 1 agent agent {size:>{width}} {_time(entry)} {_name(entry, options)}\n"
        for entry, size in zip(entries, sizes, strict=True)
    )


def _name(entry: Entry, options: str) -> str:
    return entry[0] + ("/" if "p" in options and entry[1]["file_type"] == "directory" else "")


def _mode(entry: Entry) -> str:
    mode = int(entry[1]["mode"])
    letters = "".join(letter if mode >> (8 - at) & 1 else "-" for at, letter in enumerate("rwxrwxrwx"))
    return {"directory": "d", "symlink": "l"}.get(str(entry[1]["file_type"]), "-") + letters


def _time(entry: Entry) -> str:
    return time.strftime("%b %e %H:%M", time.gmtime(float(entry[1]["modified"])))


def human(size: int) -> str:
    """A size for people, as `ls -h` rounds it: 4.9K, 12M."""
    if size < 1024:
        return str(size)
    for unit in "KMGT":
        tenths = -(-size * 10 // 1024)
        if tenths < 100:
            return f"{tenths // 10}.{tenths % 10}{unit}"
        size = -(-size // 1024)
        if size < 1024:
            return f"{size}{unit}"
    return f"{size}P"
