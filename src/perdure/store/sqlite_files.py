"""Notice when somebody moves or deletes the database's files while the server uses them.

SQLite goes on with the files that it has opened: what it commits then is lost at the next start.
"""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

from perdure.domain.errors import Unavailable
from perdure.store.faults import unavailable

RESTORING = "perdure.db.restoring"
"""The database's name in the data folder until it is restored."""
CHECK_SECONDS = 0.05
"""How often the files are checked at most, so that many transactions share one check."""


class Files:
    """The database's file and its write-ahead log, as they were when this process first used them."""

    def __init__(self, path: Path) -> None:
        self._paths = (path, _log_of(path))
        self._known: tuple[int, ...] = ()
        self._checked = 0.0

    def check(self, writer: sqlite3.Connection) -> None:
        """Check that the files are where they were; call it before a transaction of the writer.

        If the write-ahead log is gone, what it holds is copied to the database's file, where the next start
        finds it.

        Raises:
            Unavailable: a file was moved, deleted or replaced.
        """
        now = time.monotonic()
        if now - self._checked < CHECK_SECONDS:
            return
        found = tuple(map(_inode, self._paths))
        if not self._known and all(found):
            self._known = found  # the write-ahead log begins with the first transaction
        if self._known and found != self._known:
            if found[0] == self._known[0]:
                writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            raise unavailable("moved")
        self._checked = now


def _log_of(path: Path) -> Path:
    """Return the write-ahead log of a database's file."""
    return path.with_name(f"{path.name}-wal")


def _inode(path: Path) -> int:
    """Return what tells a file from another one at the same place; 0 if there is none."""
    try:
        return os.stat(path).st_ino  # noqa: PTH116 (a third of the time, before many transactions)
    except OSError:
        return 0


def check_log_has_database(path: Path) -> None:
    """Check that no write-ahead log is left without its database, because SQLite would delete the log.

    Raises:
        Unavailable: there is one. It may hold all data of a database that is younger than its first
            checkpoint.
    """
    log = _log_of(path)
    if _size(log) and not _size(path):
        raise Unavailable(
            f"{path.name} is missing or empty, but its write-ahead log {log.name} is not, and a new database"
            f" would delete it: put the {path.name} back that belongs to it, or remove {log.name}"
        )


def check_restored(folder: Path) -> None:
    """Check that no restore into this folder was interrupted.

    Raises:
        Unavailable: one was, so that a server would begin with an empty database.
    """
    if (folder / RESTORING).exists() and not (folder / "perdure.db").exists():
        raise Unavailable(
            f"a backup was being restored into the data folder {folder}, and that did not end: run `perdure"
            f" restore` again, or remove {RESTORING} to begin with an empty database"
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
