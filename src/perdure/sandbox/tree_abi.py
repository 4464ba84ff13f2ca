"""Gives bashkit a `Tree`: bashkit calls it through its stable C interface for file systems, version 1.

The functions exist once for the process, and never end: bashkit may still call one while it shuts down.
"""

from __future__ import annotations

import ctypes
import itertools
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import CFUNCTYPE, Structure, c_bool, c_char_p, c_size_t, c_uint32, c_void_p, py_object
from typing import TYPE_CHECKING, Any

from perdure.sandbox.tree import File, Folder, Node, Problem, Tree, TreeError

if TYPE_CHECKING:
    import bashkit

VERSION, NAME = 1, b"bashkit.FileSystem.v1"
_OK, _FAILED = 0, 1
_FILE, _FOLDER, _LINK, _PIPE = range(4)

_KINDS: dict[Problem, int] = {
    "other": 0, "not_found": 1, "exists": 2, "denied": 3, "invalid": 4,
    "is_folder": 5, "no_folder": 6, "not_empty": 7, "unsupported": 8,
}  # fmt: skip
_METADATA = struct.Struct("=B7xQI4xqI4xqI4x")
"""A file's type, size, mode, and when it was changed and created, in seconds and nanoseconds."""
_ENTRY = struct.Struct("=QQ56s")
_SPAN = struct.Struct("=QQ")
_ERROR = struct.Struct("=I4xQQ")


class _Span(Structure):
    """Bytes: where they begin, and how many they are."""

    _fields_ = (("at", c_void_p), ("length", c_size_t))


_trees: dict[int, Tree] = {}
_numbers = itertools.count(1)
_lent: dict[int, tuple[bytes, ...]] = {}
"""What each thread has given to bashkit, which copies it at once. Python's own storage of a thread would not
keep it: for Python, a foreign thread ends with each call."""


@contextmanager
def mounted(tree: Tree) -> Iterator[bashkit.FileSystem]:
    """Give the tree as a file system of bashkit, for the duration of the block."""
    from bashkit import FileSystem

    number = next(_numbers)
    handle = _Handle(VERSION, 0, number, _NOTHING, _NOTHING, ctypes.addressof(_TABLE))
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = py_object, [c_void_p, c_char_p, c_void_p]
    _trees[number] = tree
    try:
        yield FileSystem.from_capsule(new(ctypes.addressof(handle), NAME, None))
    finally:
        del _trees[number]


_kept: set[int] = set()
"""The threads that Python keeps."""


def _text(span: _Span) -> str:
    return ctypes.string_at(span.at, span.length).decode() if span.length else ""


def _lend(data: bytes, *further: bytes) -> tuple[int, int]:
    """Return where these bytes are in memory, and how many; they stay there until the thread's next call.

    Args:
        further: what else stays there.
    """
    _lent[threading.get_ident()] = (data, *further)
    return _address(data), len(data)


def _address(data: bytes) -> int:
    return ctypes.cast(c_char_p(data), c_void_p).value or 0


def _call(work: Callable[..., None]) -> Callable[..., int]:
    """Make a function of the interface of one that works on a tree. The last argument is for the error."""

    def call(number: int, *arguments: Any) -> int:
        _keep_thread()
        try:
            tree = _trees.get(number)
            if tree is None:
                raise TreeError("not_found", "the command has ended")
            work(tree, *arguments[:-1])
        except TreeError as error:
            return _fail(arguments[-1], _KINDS[error.problem], str(error))
        except BaseException as error:  # noqa: BLE001 (nothing can be raised through C)
            return _fail(arguments[-1], 0, type(error).__name__)
        return _OK

    return call


def _keep_thread() -> None:
    """Let Python keep this thread of bashkit's: making a thread anew takes longer than a call."""
    thread = threading.get_ident()
    if thread not in _kept:
        _kept.add(thread)
        ctypes.pythonapi.PyGILState_Ensure()


def _fail(out: int, kind: int, message: str) -> int:
    ctypes.memmove(out, _ERROR.pack(kind, *_lend(message.encode())), _ERROR.size)
    return _FAILED


def _metadata(node: Node) -> bytes:
    if isinstance(node, File):
        kind = _PIPE if node.is_pipe else _FILE
    else:
        kind = _FOLDER if isinstance(node, Folder) else _LINK
    # In whole numbers: a float just below a second has the fraction 1.0, which bashkit refuses.
    changed, made = (divmod(int(when * 1e9), 1_000_000_000) for when in (node.modified, node.created))
    return _METADATA.pack(kind, node.size, node.mode, *changed, *made)


def _read_file(tree: Tree, path: _Span, out: int) -> None:
    ctypes.memmove(out, _SPAN.pack(*_lend(tree.read(_text(path)))), _SPAN.size)


def _write_file(tree: Tree, path: _Span, content: _Span) -> None:
    tree.write(_text(path), ctypes.string_at(content.at, content.length) if content.length else b"")


def _append_file(tree: Tree, path: _Span, content: _Span) -> None:
    tree.append(_text(path), ctypes.string_at(content.at, content.length) if content.length else b"")


def _mkdir(tree: Tree, path: _Span, recursive: bool) -> None:
    tree.make_folder(_text(path), recursive=recursive)


def _remove(tree: Tree, path: _Span, recursive: bool) -> None:
    tree.remove(_text(path), recursive=recursive)


def _stat(tree: Tree, path: _Span, out: int) -> None:
    ctypes.memmove(out, _metadata(tree.look(_text(path))), _METADATA.size)


def _read_dir(tree: Tree, path: _Span, out: int) -> None:
    listed = tree.list(_text(path))
    names = [name.encode() for name, _ in listed]
    joined = b"".join(names)
    at = _address(joined)
    entries = bytearray()
    for name, (_, node) in zip(names, listed, strict=True):
        entries += _ENTRY.pack(at, len(name), _metadata(node))
        at += len(name)
    begin, _ = _lend(bytes(entries), joined)
    ctypes.memmove(out, _SPAN.pack(begin, len(names)), _SPAN.size)


def _exists(tree: Tree, path: _Span, out: int) -> None:
    ctypes.memmove(out, b"\1" if tree.exists(_text(path)) else b"\0", 1)


def _rename(tree: Tree, source: _Span, target: _Span) -> None:
    tree.rename(_text(source), _text(target))


def _copy(tree: Tree, source: _Span, target: _Span) -> None:
    tree.copy(_text(source), _text(target))


def _symlink(tree: Tree, target: _Span, link: _Span) -> None:
    tree.link(_text(target), _text(link))


def _read_link(tree: Tree, path: _Span, out: int) -> None:
    ctypes.memmove(out, _SPAN.pack(*_lend(tree.read_link(_text(path)).encode())), _SPAN.size)


def _chmod(tree: Tree, path: _Span, mode: int) -> None:
    tree.look(_text(path)).mode = mode


def _free(_number: int, _span: _Span) -> None:
    _lent.pop(threading.get_ident(), None)


_Free = CFUNCTYPE(None, c_void_p, _Span)
_Count = CFUNCTYPE(None, c_void_p)
_NOTHING = ctypes.cast(ctypes.pythonapi.Py_IsInitialized, _Count)
"""Called when bashkit keeps or drops a file system. A function in C: it can come after Python's end."""

_FUNCTIONS: dict[str, tuple[Callable[..., None], tuple[Any, ...]]] = {
    "read_file": (_read_file, (_Span, c_void_p)),
    "write_file": (_write_file, (_Span, _Span)),
    "append_file": (_append_file, (_Span, _Span)),
    "mkdir": (_mkdir, (_Span, c_bool)),
    "remove": (_remove, (_Span, c_bool)),
    "stat": (_stat, (_Span, c_void_p)),
    "read_dir": (_read_dir, (_Span, c_void_p)),
    "exists": (_exists, (_Span, c_void_p)),
    "rename": (_rename, (_Span, _Span)),
    "copy": (_copy, (_Span, _Span)),
    "symlink": (_symlink, (_Span, _Span)),
    "read_link": (_read_link, (_Span, c_void_p)),
    "chmod": (_chmod, (_Span, c_uint32)),
}
"""The functions of the interface in its order, and the types of their arguments."""
_TYPES = {name: CFUNCTYPE(c_uint32, c_void_p, *types, c_void_p) for name, (_, types) in _FUNCTIONS.items()}


class _Table(Structure):
    """The interface's functions."""

    _fields_ = (*_TYPES.items(), ("free_bytes", _Free), ("free_dir_entries", _Free))


class _Handle(Structure):
    """What bashkit gets of a file system."""

    _fields_ = (
        ("version", c_uint32),
        ("reserved", c_uint32),
        ("instance", c_void_p),
        ("retain", _Count),
        ("release", _Count),
        ("table", c_void_p),
    )


_TABLE = _Table(
    *(_TYPES[name](_call(work)) for name, (work, _) in _FUNCTIONS.items()), _Free(_free), _Free(_free)
)
