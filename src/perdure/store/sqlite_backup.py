"""Copies of a SQLite database that a server uses, and their way back.

The copy is of one moment: it is made in one read of the write-ahead log, so the server goes on writing, and
what it writes meanwhile is not in the copy. Until the copy is complete, the log grows by what is written.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path

from perdure.domain.backups import bad_backup
from perdure.domain.errors import Conflict, Unavailable
from perdure.store.archives import Progress
from perdure.store.data_folder import LOCK, flush_folder, make_folder
from perdure.store.sqlite import SIDE_FILES
from perdure.store.sqlite_files import RESTORING
from perdure.store.sqlite_reads import connect_reader, no_database

ENTRY = "database.sqlite"
"""The database's name in a backup."""
PAGES = 256
"""Database pages that are copied at a time: 1 MB."""
REST = 0.25
"""Seconds of rest for each second of copying, so that the server has the disk, too."""


def copy_database(source: Path, target: Path, progress: Progress) -> dict[str, int]:
    """Copy a database, which a server may use, to a new file; return the number of rows of each table.

    Raises:
        Unavailable: there is none, it cannot be read or is damaged, or the copy cannot be written.
    """
    if not source.is_file():
        raise no_database(source)
    remove_database(target)
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    try:
        with contextlib.closing(connect_reader(source)) as reader:
            # As long as this read lasts, all steps copy what it sees, and none has to begin again.
            reader.execute("BEGIN")
            reader.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
            with contextlib.closing(sqlite3.connect(target, isolation_level=None)) as copy:
                copy.execute("PRAGMA synchronous=OFF")
                reader.backup(copy, pages=PAGES, progress=_Steps(progress))
                reader.execute("ROLLBACK")
                copy.execute("PRAGMA journal_mode=DELETE")  # the copy is a single file
                check_database(copy)
                return count_rows(copy)
    except sqlite3.Error as error:
        raise Unavailable(f"cannot copy the database: {error}") from error


class _Steps:
    """Reports each step of a copy, and rests after it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._began = time.monotonic()

    def __call__(self, status: int, remaining: int, total: int) -> None:
        self._progress("copying the database", total - remaining, total)
        time.sleep(min(1.0, (time.monotonic() - self._began) * REST))
        self._began = time.monotonic()


def check_database(connection: sqlite3.Connection) -> None:
    """Check that a database's pages are intact. Raises Unavailable."""
    found = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
    if found != ["ok"]:
        raise Unavailable(f"the database is damaged: {'; '.join(found)}", cause="corrupt")


def count_rows(connection: sqlite3.Connection) -> dict[str, int]:
    """Count the rows of each table."""
    tables = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name"
    ).fetchall()
    return {name: connection.execute(f'SELECT COUNT(*) FROM "{name}"').fetchone()[0] for (name,) in tables}


def newest_migration(path: Path) -> int:
    """Return the number of the newest migration of a database's file. Raises Unavailable."""
    try:
        with contextlib.closing(connect_reader(path)) as reader:
            found = reader.execute("SELECT MAX(number) FROM migrations").fetchone()
    except sqlite3.Error as error:
        raise Unavailable(f"{path.name} is not a database of Perdure: {error}") from error
    return 0 if found is None or found[0] is None else int(found[0])


def master_key_of(path: Path) -> str | None:
    """Return the name of the master key of a database's file; None if it holds no secret."""
    with contextlib.closing(connect_reader(path)) as reader:
        found = reader.execute("SELECT master_id FROM sealing WHERE one = 1").fetchone()
    return None if found is None else str(found[0])


def check_empty(folder: Path, *, keys: Iterable[str]) -> None:
    """Check that a folder may become a data folder: it has nothing but a master key, or what a restore left.

    Args:
        keys: the names of key files.

    Raises:
        Conflict: it holds something else.
    """
    make_folder(folder)
    allowed = {LOCK, *(RESTORING + end for end in SIDE_FILES), *keys}
    others = sorted({each.name for each in folder.iterdir()} - allowed)
    if others:
        raise Conflict(
            f"the folder {folder} is not empty ({', '.join(others[:3])}): a backup is restored into an empty"
            " one, so that nothing is lost",
            code="target_not_empty",
        )


def restore_database(folder: Path, chunks: Iterable[bytes], progress: Progress, total: int) -> None:
    """Write a database to the data folder. It appears under its name when it is complete and intact.

    The caller holds the folder's lock.

    Args:
        total: its size in bytes.

    Raises:
        InvalidInput: `invalid_backup`: the database is damaged.
        OSError: it cannot be written.
    """
    target, done = folder / RESTORING, 0
    remove_database(target)
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as file:
        for chunk in chunks:
            file.write(chunk)
            done += len(chunk)
            progress("restoring the database", done, total)
        file.flush()
        os.fsync(file.fileno())
    try:
        with contextlib.closing(sqlite3.connect(target, isolation_level=None)) as connection:
            check_database(connection)
    except (sqlite3.Error, Unavailable) as error:
        raise bad_backup(f"the database in the backup is damaged: {error}") from None
    target.rename(folder / "perdure.db")
    flush_folder(folder)


def remove_database(path: Path) -> None:
    """Remove a database's file with those beside it, if there are any."""
    for end in SIDE_FILES:
        path.with_name(path.name + end).unlink(missing_ok=True)
