"""The file of a backup: a ZIP archive whose last entry is the manifest.

It is written under another name and renamed when it is complete, so that a file with the backup's name is
always whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO, Protocol

import msgspec

from perdure.domain.backups import MAX_MANIFEST, Content, Manifest, bad_backup, read_manifest
from perdure.domain.errors import Conflict, InvalidInput
from perdure.store.data_folder import flush_folder, os_errors_explained

MANIFEST = "manifest.json"
PARTIAL = ".partial"
"""The end of the name of a backup that is not complete."""
CHUNK = 1024 * 1024
"""Bytes that are held in memory at a time."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is; 0 if nobody knows."""


class Source(Protocol):
    """What can be read in parts, such as a file or a pipe."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; none at the end."""
        ...


class ArchiveWriter:
    """Writes the entries of a backup. Create it with `new_archive`."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.contents: dict[str, Content] = {}

    def add(self, name: str, source: Source, progress: Progress, total: int, *, packed: bool) -> None:
        """Add an entry.

        Args:
            total: its size in bytes, for the progress; 0 if nobody knows.
            packed: whether the source is compressed already.
        """
        digest, done = sha256(), 0
        info = zipfile.ZipInfo(name)
        info.compress_type = zipfile.ZIP_STORED if packed else zipfile.ZIP_DEFLATED
        info.external_attr = 0o600 << 16
        with self._archive.open(info, "w", force_zip64=True) as entry:
            while chunk := source.read(CHUNK):
                entry.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                progress("writing the backup", done, total)
        self.contents[name] = Content(done, digest.hexdigest())

    def finish(self, manifest: Manifest) -> None:
        """Add the manifest, which makes the backup complete."""
        self._archive.writestr(MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))


@contextmanager
def new_archive(path: Path) -> Iterator[ArchiveWriter]:
    """Write a backup. The file appears under its name, with mode 0600, when the block ends without an error.

    Raises:
        Conflict: the file exists, or another process writes it.
        Unavailable: it cannot be written.
    """
    with new_file(path) as file, zipfile.ZipFile(file, "w", compresslevel=1) as archive:
        yield ArchiveWriter(archive)


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """Write a file, which appears under its name, with mode 0600, when the block ends without an error.

    Raises:
        Conflict: the file exists, or another process writes it.
        Unavailable: it cannot be written.
    """
    if path.exists():
        raise Conflict(f"{path} exists: choose another name, or remove it", code="file_exists")
    partial = path.with_name(path.name + PARTIAL)
    with os_errors_explained(f"write {path}"):
        handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "w+b") as file:
            _lock(file, path)
            try:
                file.truncate()
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.link(partial, path)  # unlike a rename, it replaces no file
                flush_folder(path.parent)
            finally:
                partial.unlink(missing_ok=True)


def _lock(file: IO[bytes], path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise Conflict(f"another process writes {path} now", code="file_exists") from None


class ArchiveReader:
    """A backup that was checked as a whole. Create it with `open_archive`."""

    def __init__(self, archive: zipfile.ZipFile, manifest: Manifest) -> None:
        self._archive = archive
        self.manifest = manifest

    def check(self, progress: Progress) -> None:
        """Check every byte. Raises InvalidInput (`invalid_backup`)."""
        total, before = sum(each.bytes for each in self.manifest.contents.values()), 0
        for name, expected in self.manifest.contents.items():
            digest, done = sha256(), 0
            for chunk in self.chunks(name):
                digest.update(chunk)
                done += len(chunk)
                progress("checking the backup", before + done, total)
            if done != expected.bytes or digest.hexdigest() != expected.sha256:
                raise bad_backup(f"the backup is damaged: {name} is not what the manifest says")
            before += done

    def chunks(self, name: str) -> Iterator[bytes]:
        """Read an entry in parts. Raises InvalidInput (`invalid_backup`)."""
        try:
            with self._archive.open(name) as entry:
                while chunk := entry.read(CHUNK):
                    yield chunk
        except KeyError:
            raise bad_backup(f"the backup is damaged: it has no {name}") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise bad_backup(f"the backup is damaged: {error}") from None


@contextmanager
def open_archive(path: Path, newest_migration: int) -> Iterator[ArchiveReader]:
    """Open a backup.

    Raises:
        InvalidInput: `invalid_backup`: it is none, it is cut, or a newer release wrote it.
    """
    with contextlib.ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(stack.enter_context(path.open("rb"))))
        except OSError as error:
            raise InvalidInput(f"cannot read {path}: {error.strerror}", code="invalid_backup") from None
        except (zipfile.BadZipFile, ValueError):
            raise bad_backup(f"{path} is not a backup, or not a whole one: its end is missing") from None
        yield ArchiveReader(archive, _manifest_of(archive, newest_migration))


def _manifest_of(archive: zipfile.ZipFile, newest_migration: int) -> Manifest:
    try:
        with archive.open(MANIFEST) as entry:
            text = entry.read(MAX_MANIFEST)
    except KeyError:
        raise bad_backup("the file is not a backup of Perdure: it has no manifest") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise bad_backup(f"the backup is damaged: {error}") from None
    return read_manifest(text, newest_migration)
