"""A shell's file tree, in memory: each operation costs the same in a small tree and in a large one.

bashkit's own tree counts all of its files for each one that it adds, and looks at all of them to list one
folder.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

FILE_MODE, SCRIPT_MODE, FOLDER_MODE, LINK_MODE = 0o644, 0o755, 0o755, 0o777

MAX_FILE = 10 << 20
"""Bytes of a file that a command writes."""
MAX_SIZE = 100 << 20
"""Bytes of all files together up to which a command may write."""
MAX_ENTRIES = 40_000
"""Files, folders and links up to which a command may create more: twice what a workspace holds."""

Problem = Literal[
    "other", "not_found", "exists", "denied", "invalid", "is_folder", "no_folder", "not_empty", "unsupported"
]


class TreeError(Exception):
    """Why an operation failed: what kind of problem it is, and a message."""

    def __init__(self, problem: Problem, message: str) -> None:
        super().__init__(message)
        self.problem = problem


class File:
    """A file, or a named pipe. Its content is a bytearray once something was appended."""

    __slots__ = ("content", "created", "is_pipe", "mode", "modified")

    def __init__(self, content: bytes | bytearray, mode: int, now: float, *, is_pipe: bool = False) -> None:
        self.content, self.mode, self.is_pipe = content, mode, is_pipe
        self.created = self.modified = now

    @property
    def size(self) -> int:
        return len(self.content)


class Link:
    """A symbolic link; the shell follows it, not the tree."""

    __slots__ = ("created", "mode", "modified", "target")

    def __init__(self, target: str, now: float) -> None:
        self.target, self.mode = target, LINK_MODE
        self.created = self.modified = now

    @property
    def size(self) -> int:
        return len(self.target.encode())


class Folder:
    """A folder, and what is in it by name."""

    __slots__ = ("created", "entries", "mode", "modified")

    size = 0

    def __init__(self, now: float) -> None:
        self.entries: dict[str, Node] = {}
        self.mode = FOLDER_MODE
        self.created = self.modified = now


Node = File | Link | Folder


class Tree:
    """A tree of files, folders and links. Every operation may be called from any thread."""

    def __init__(self, files: Mapping[str, bytes], folders: Sequence[str]) -> None:
        """Create a tree with these files and folders; limits do not apply to them.

        Args:
            folders: each folder comes after its parent.
        """
        now = time.time()
        self._lock = threading.RLock()
        self.root = Folder(now)
        self._count = len(files) + len(folders)
        self._size = sum(map(len, files.values()))
        made = {"": self.root}
        for path in folders:
            above, _, name = path.rpartition("/")
            made[path] = made[above].entries[name] = Folder(now)
        for path, content in files.items():
            above, _, name = path.rpartition("/")
            # Modes are not stored, and a script with a shebang is meant to run.
            mode = SCRIPT_MODE if content.startswith(b"#!") else FILE_MODE
            made[above].entries[name] = File(content, mode, now)

    def read(self, path: str) -> bytes:
        """Return a file's content."""
        with self._lock:
            return bytes(self._file(path).content)

    def write(self, path: str, content: bytes) -> None:
        """Create a file, or replace its content."""
        with self._lock:
            folder, name = self._place(path)
            old = folder.entries.get(name)
            if isinstance(old, Folder):
                raise TreeError("is_folder", "is a directory")
            self._check_room(len(content), 0 if old is None else old.size, new=old is None)
            now = time.time()
            if isinstance(old, File):
                old.content, old.modified = content, now
            else:
                folder.entries[name] = File(content, FILE_MODE, now)
            self._count += old is None

    def append(self, path: str, content: bytes) -> None:
        """Append to a file, or create it."""
        with self._lock:
            found = self._find(path)
            if found is None:
                self.write(path, content)
                return
            file = self._file(path)
            self._check_room(file.size + len(content), file.size, new=False)
            if not isinstance(file.content, bytearray):
                file.content = bytearray(file.content)
            file.content += content
            file.modified = time.time()

    def make_pipe(self, path: str, mode: int) -> None:
        """Create a named pipe, where nothing may exist."""
        with self._lock:
            folder, name = self._place(path)
            if name in folder.entries:
                raise TreeError("exists", "File exists")
            self._check_room(0, 0, new=True)
            folder.entries[name] = File(b"", mode, time.time(), is_pipe=True)
            self._count += 1

    def set_time(self, path: str, when: float) -> None:
        """Set when a file, a link or a folder was changed, in seconds since 1970."""
        self.look(path).modified = when

    def make_folder(self, path: str, *, recursive: bool) -> None:
        """Create a folder; `recursive`: also those above it, and it may exist."""
        with self._lock:
            now, folder = time.time(), self.root
            names = _names(path)
            for at, name in enumerate(names):
                below = folder.entries.get(name)
                last = at == len(names) - 1
                if below is None and (recursive or last):
                    self._check_room(0, 0, new=True)
                    below = folder.entries[name] = Folder(now)
                    self._count += 1
                elif below is None:
                    raise TreeError("not_found", "parent directory not found")
                elif not isinstance(below, Folder):
                    raise TreeError("exists", "file exists")
                elif last and not recursive:
                    raise TreeError("exists", "directory exists")
                folder = below

    def remove(self, path: str, *, recursive: bool) -> None:
        """Remove a file, a link or a folder; `recursive`: with all that is in it."""
        with self._lock:
            node = self.look(path)
            if isinstance(node, Folder) and node.entries and not recursive:
                raise TreeError("not_empty", "directory not empty")
            for _, gone in _below(path, node):
                self._count -= 1
                self._size -= gone.size
            if node is self.root:  # where it is mounted remains
                self.root.entries.clear()
                return
            folder, name = self._place(path)
            del folder.entries[name]
            self._count -= 1
            self._size -= node.size

    def look(self, path: str) -> Node:
        """Return what is at a path, without following a link."""
        with self._lock:
            found = self._find(path)
            if found is None:
                raise TreeError("not_found", "not found")
            return found

    def list(self, path: str) -> list[tuple[str, Node]]:
        """Return what is in a folder, with its names."""
        with self._lock:
            found = self.look(path)
            if not isinstance(found, Folder):
                raise TreeError("no_folder", "not a directory")
            return list(found.entries.items())

    def exists(self, path: str) -> bool:
        """Whether there is anything at a path."""
        with self._lock:
            return self._find(path) is not None

    def rename(self, source: str, target: str) -> None:
        """Move a file, a link or a folder; it replaces a file or a link at the target."""
        with self._lock:
            node = self.look(source)
            folder, name = self._place(target)
            old = folder.entries.get(name)
            if old is node:
                return
            if isinstance(old, Folder) and (old.entries or not isinstance(node, Folder)):
                raise TreeError("other", "cannot rename over a directory")
            if isinstance(node, Folder) and f"{target}/".startswith(f"{source.rstrip('/')}/"):
                raise TreeError("invalid", "cannot move a directory into itself")
            above, before = self._place(source)
            del above.entries[before]
            folder.entries[name] = node
            if old is not None:
                self._count -= 1
                self._size -= old.size

    def copy(self, source: str, target: str) -> None:
        """Copy a file with its mode, or a link."""
        with self._lock:
            node = self.look(source)
            if isinstance(node, Link):
                self.link(node.target, target)
            elif isinstance(node, File):
                self.write(target, bytes(node.content))
                self._file(target).mode = node.mode
            else:
                raise TreeError("is_folder", "is a directory")

    def link(self, target: str, path: str) -> None:
        """Create a link; it replaces a file or a link at its path."""
        with self._lock:
            folder, name = self._place(path)
            old = folder.entries.get(name)
            if isinstance(old, Folder):
                raise TreeError("exists", "file exists")
            link = Link(target, time.time())
            self._check_room(link.size, 0 if old is None else old.size, new=old is None)
            folder.entries[name] = link
            self._count += old is None

    def read_link(self, path: str) -> str:
        """Return where a link points to."""
        found = self.look(path)
        if not isinstance(found, Link):
            raise TreeError("invalid", "not a symlink")
        return found.target

    def nodes(self) -> Iterator[tuple[str, Node]]:
        """Return everything in the tree, with its path; folders come before what is in them."""
        return _below("", self.root)

    def _find(self, path: str) -> Node | None:
        node: Node = self.root
        for name in _names(path):
            if not isinstance(node, Folder):
                return None
            below = node.entries.get(name)
            if below is None:
                return None
            node = below
        return node

    def _file(self, path: str) -> File:
        found = self._find(path)
        if isinstance(found, Folder):
            raise TreeError("is_folder", "is a directory")
        if not isinstance(found, File):  # a link is not followed here
            raise TreeError("not_found", "file not found")
        return found

    def _place(self, path: str) -> tuple[Folder, str]:
        """The folder that a path is in, and its name there."""
        names = _names(path)
        if not names:
            raise TreeError("denied", "the mounted folder itself cannot be changed")
        above = self._find("/".join(names[:-1]))
        if above is None:
            raise TreeError("not_found", "parent directory not found")
        if not isinstance(above, Folder):
            raise TreeError("no_folder", "Not a directory")
        return above, names[-1]

    def _check_room(self, size: int, before: int, *, new: bool) -> None:
        """Check the limits for a file that has so many bytes afterwards, and count them."""
        if size > MAX_FILE:
            raise TreeError("other", f"file too large: {size} bytes exceeds {MAX_FILE} byte limit")
        if new and self._count >= MAX_ENTRIES:
            raise TreeError("other", f"too many files: {self._count} of at most {MAX_ENTRIES}")
        total = self._size - before + size
        if size > before and total > MAX_SIZE:
            raise TreeError("other", f"filesystem full: {total} bytes would exceed {MAX_SIZE} byte limit")
        self._size = total


def _names(path: str) -> list[str]:
    if "//" in path or "/." in path:
        names: list[str] = []
        for name in path.split("/"):
            if name == "..":
                del names[-1:]
            elif name not in ("", "."):
                names.append(name)
        return names
    return [name for name in path.split("/") if name]


def _below(path: str, node: Node) -> Iterator[tuple[str, Node]]:
    waiting = [(path, node)]
    while waiting:
        above, folder = waiting.pop()
        if not isinstance(folder, Folder):
            continue
        for name, below in folder.entries.items():
            yield f"{above}/{name}", below
            if isinstance(below, Folder):
                waiting.append((f"{above}/{name}", below))
