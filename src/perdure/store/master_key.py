"""Master keys: their text format, their names, and the key file in the data folder.

The file is never overwritten in place. A rotation first writes the new key to `master.key.next` and flushes
it to disk, then moves the database to the new key, then renames `master.key.next` to `master.key`. Readers
try both files, so everything stays readable after a crash between any two steps.
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
from perdure.store.data_folder import flush_folder, make_folder, open_file, os_errors_explained

KEY_BYTES = 32
"""The size of every key, for AES-256."""

MAX_FILE = 1000
"""The most characters of a key file that are read."""

FILE = "master.key"
NEXT = "master.key.next"
_DRAFT = "master.key.draft"


def parse_master_key(text: str) -> bytes:
    """Parse a master key: 32 bytes as base64 or as 64 hex digits.

    Raises:
        Unavailable: the text is neither. The error does not contain the text.
    """
    text = text.strip()
    try:
        key = bytes.fromhex(text) if len(text) == 2 * KEY_BYTES else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if len(key) != KEY_BYTES:
        raise Unavailable("the master key is not valid: it must be 32 bytes, as base64 or as 64 hex digits")
    return key


def new_master_key() -> bytes:
    """Generate a random key."""
    return os.urandom(KEY_BYTES)


def key_id(key: bytes) -> str:
    """Return a master key's name: 16 hex digits of its SHA-256, which do not reveal the key."""
    return hashlib.sha256(b"perdure master key " + key).hexdigest()[:16]


def read_key_files(folder: Path) -> list[bytes]:
    """Read the keys in this folder, the current one first: none, one, or two during a rotation.

    Raises:
        Unavailable: a file cannot be read or contains no valid key.
    """
    # `NEXT` is read first: if it is renamed to `FILE` between the two reads, the second read finds it.
    found = [_read(folder / name) for name in (NEXT, FILE)]
    return [key for key in reversed(found) if key is not None]


def make_key_file(folder: Path) -> None:
    """Create the key file (mode 0600) with a random key, unless it exists.

    Raises:
        Unavailable: the file cannot be written.
    """
    with os_errors_explained(f"use the master key file {FILE}"):
        make_folder(folder)
    with hold_key_files(folder):
        if FILE not in {path.name for path in folder.iterdir()}:
            _write(folder, FILE, new_master_key())


def add_key_file(folder: Path, key: bytes) -> bool:
    """Create the key file with this key; return False if there is one with another key.

    Raises:
        Unavailable: the file cannot be written.
    """
    with hold_key_files(folder):
        present = _read(folder / FILE)
        if present is None:
            _write(folder, FILE, key)
        return present in (None, key)


def stage_key(folder: Path, key: bytes) -> None:
    """Write a key beside the current one.

    Call it while holding the files, and only if the database does not already use a staged key.
    """
    _write(folder, NEXT, key)


def promote_key(folder: Path, current: str | None) -> None:
    """Rename the staged key file to the current one, if the database has moved to the staged key.

    Call it while holding the files.

    Args:
        current: the name of the key that the database uses.
    """
    staged = _read(folder / NEXT)
    if staged is not None and key_id(staged) == current:
        with os_errors_explained(f"use the master key file {NEXT}"):
            (folder / NEXT).replace(folder / FILE)
            flush_folder(folder)


@contextmanager
def hold_key_files(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the exclusive right to change this folder's key files.

    Raises:
        Unavailable: another process holds it, and `wait` is False.
    """
    with os_errors_explained(f"use the master key file {FILE}"):
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
    with os_errors_explained(f"use the master key file {path.name}"):
        try:
            with os.fdopen(open_file(path, os.O_RDONLY), encoding="ascii") as file:
                return parse_master_key(file.read(MAX_FILE))
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            return parse_master_key("")


def _write(folder: Path, name: str, key: bytes) -> None:
    """Write a key file atomically and flush it to disk."""
    with os_errors_explained(f"use the master key file {name}"):
        (folder / _DRAFT).unlink(missing_ok=True)
        handle = os.open(folder / _DRAFT, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(base64.b64encode(key).decode() + "\n")
            file.flush()
            os.fsync(file.fileno())
        (folder / _DRAFT).replace(folder / name)
        flush_folder(folder)
