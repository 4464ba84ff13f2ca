"""Master keys: how they are written, what names them, and the file that holds one.

The file is never written in place. A new key is first put beside it (`master.key.next`), whole and on disk;
then the database is moved to it; then it takes the file's place. Whoever reads looks at both, so that a crash
between any two steps leaves everything readable.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perdure.domain.errors import Unavailable

KEY_BYTES = 32
"""The size of every key here: AES-256."""

FILE = "master.key"
NEXT = "master.key.next"
_DRAFT = "master.key.draft"


def parse_master_key(text: str) -> bytes:
    """A master key from its text: 32 bytes as base64 or as 64 hex digits.

    Raises:
        Unavailable: it is neither. The text itself is not repeated.
    """
    text = text.strip()
    try:
        key = bytes.fromhex(text) if len(text) == 2 * KEY_BYTES else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if len(key) != KEY_BYTES:
        raise Unavailable("the master key must be 32 bytes, written as base64 or as 64 hex digits")
    return key


def new_master_key() -> bytes:
    """A fresh key."""
    return os.urandom(KEY_BYTES)


def key_id(key: bytes) -> str:
    """What a master key is called: 16 hex digits of its SHA-256, which tell nothing about the key itself."""
    return hashlib.sha256(b"perdure master key " + key).hexdigest()[:16]


def read_key_files(folder: Path) -> list[bytes]:
    """The keys in this folder, the one in force first: none, one, or two while keys are being rotated.

    Raises:
        Unavailable: a file cannot be read or holds no key.
    """
    # `next` is looked at first: should it take the other's place between the two looks, it is seen there.
    found = [_read(folder / name) for name in (NEXT, FILE)]
    return [key for key in reversed(found) if key is not None]


def make_key_file(folder: Path) -> None:
    """Make the file (mode 0600) with a fresh key, if there is none.

    Raises:
        Unavailable: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with hold_key_files(folder):
        if not (folder / FILE).exists():
            _write(folder, FILE, new_master_key())


def stage_key(folder: Path, key: bytes) -> None:
    """Put a key beside the one in force.

    Call it while holding the files, and only if the database uses no key that is staged.
    """
    _write(folder, NEXT, key)


def promote_key(folder: Path, current: str | None) -> None:
    """Let the staged key take the file's place, if the database has moved to it.

    Call it while holding the files.

    Args:
        current: the name of the key that the database is under.
    """
    staged = _read(folder / NEXT)
    if staged is not None and key_id(staged) == current:
        with _explained(NEXT):
            (folder / NEXT).replace(folder / FILE)
            _flush_folder(folder)


@contextmanager
def hold_key_files(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Be the only one who changes the key files of this folder.

    Raises:
        Unavailable: not `wait`, and another process holds them.
    """
    with _explained(FILE):
        handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            raise Unavailable("another process is rotating the master key in this data folder") from None
        yield
    finally:
        os.close(handle)


def _read(path: Path) -> bytes | None:
    with _explained(path.name):
        try:
            return parse_master_key(path.read_text("ascii"))
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            return parse_master_key("")


def _write(folder: Path, name: str, key: bytes) -> None:
    """Write a key file whole, or not at all."""
    with _explained(name):
        (folder / _DRAFT).unlink(missing_ok=True)
        handle = os.open(folder / _DRAFT, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(base64.b64encode(key).decode() + "\n")
            file.flush()
            os.fsync(file.fileno())
        (folder / _DRAFT).replace(folder / name)
        _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"cannot use the master key file {name}: {error.strerror}") from error
