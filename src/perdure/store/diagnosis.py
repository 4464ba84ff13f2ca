"""What `perdure doctor` asks a database. Nothing is changed, and a server may be using it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from msgspec import Struct

from perdure.store.database import Tx
from perdure.store.migrate import digest_of, load_migrations


class Migrations(Struct, frozen=True):
    """The migrations of a database, beside those that this version knows.

    Attributes:
        known: the number of those that this version knows.
        newest: the last one that it knows.
        missing: the number of those that are to be made.
        unknown: the last one that it does not know; None for none.
        edited: one that was another file when it was made; None for none.
        at: when the last one was made, in seconds since the Unix epoch.
    """

    known: int
    newest: int
    missing: int
    unknown: int | None
    edited: int | None
    at: float


async def read_migrations(tx: Tx) -> Migrations:
    """Compare the migrations of the database with those that this version knows."""
    known = {number: digest_of(sql) for number, _, sql in load_migrations()}
    rows = await tx.all("SELECT number, digest, applied_at FROM migrations")
    done = {row[0] for row in rows}
    edited = [row[0] for row in rows if row[1] is not None and row[0] in known and row[1] != known[row[0]]]
    return Migrations(
        known=len(known),
        newest=max(known),
        missing=len(known.keys() - done),
        unknown=max(done - known.keys(), default=None),
        edited=min(edited, default=None),
        at=max((row[2] for row in rows), default=0) / 1e6,
    )


def damage_of(file: Path) -> str | None:
    """Return what is wrong with the pages of an SQLite file; None if all can be read."""
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            said = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.Error as error:
        return str(error)
    return None if said == "ok" else said


def write_fault(file: Path) -> str | None:
    """Return why an SQLite file cannot be written; None if it can. The transaction is undone."""
    try:
        with closing(sqlite3.connect(file, isolation_level=None, timeout=5)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        return str(error)
    return None
