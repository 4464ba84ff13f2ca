"""What deleted rows leave in SQLite's files: in the write-ahead log, in free pages, and in gaps of pages."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from perdure.store.faults import sqlite_fault, unavailable

MOST = 64 * 1024 * 1024
"""Bytes of a database that is rewritten as a whole. Writers wait meanwhile (measured: 10 ms
per MB)."""
PATIENCE = 500
"""Milliseconds to wait for readers, and for the writer."""


def scrub_file(connect: Callable[[], sqlite3.Connection], most: int = MOST) -> bool:
    """Write a small database anew, and empty the write-ahead log.

    What was deleted with `secure_delete` is overwritten already. But when SQLite moves rows from one page to
    another, copies may stay in the gaps of pages, and free pages of earlier times still have what they had.

    Args:
        most: bytes of a database that is written anew.

    Returns:
        Whether the database was written anew, so that nothing is left.

    Raises:
        Unavailable: readers or writers are in the way.
    """
    connection = connect()
    try:
        connection.execute(f"PRAGMA busy_timeout={PATIENCE}")
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        whole: bool = (pages - free) * size <= most
        try:
            if whole:
                connection.execute("VACUUM")
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.OperationalError as error:
            raise (sqlite_fault(error) or error) from error
        if busy:
            raise unavailable("busy", "its write-ahead log is being read")
        return whole
    finally:
        connection.close()
