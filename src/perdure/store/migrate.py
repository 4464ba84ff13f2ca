"""Migrations: numbered SQL files, forward only, all pending ones in one transaction, under a lock.

Each file serves both databases; `{{name}}` is replaced by the dialect's word for it (`WORDS`). A statement
that begins with `{{sqlite}}` or `{{postgres}}` is of that dialect only.
"""

from __future__ import annotations

import re
import time
from hashlib import sha256
from importlib.resources import files

from perdure.domain.errors import PerdureError, Unavailable
from perdure.store.database import Database, Tx
from perdure.store.locks import Lock, hold

_OTHERS = "\0"
"""With this begins a statement of the other dialect."""
WORDS = {
    "sqlite": {
        "blob": "BLOB",
        "clustered": " WITHOUT ROWID",
        "bigserial": "INTEGER",
        "unlogged": "TABLE",
        "bytewise": "",
        "updated": "",
        "sqlite": "",
        "postgres": _OTHERS,
    },
    "postgres": {
        "blob": "BYTEA",
        "clustered": "",
        "bigserial": "BIGSERIAL",
        "unlogged": "UNLOGGED TABLE",
        "bytewise": ' COLLATE "C"',
        "updated": " WITH (fillfactor = 80)",
        "sqlite": _OTHERS,
        "postgres": "",
    },
}

DIGESTS = 8
"""The migration since which digests are recorded."""

_CREATE = re.compile(r"^CREATE (?:UNLOGGED )?TABLE (\w+)")
_NUMBERED = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


def load_migrations() -> list[tuple[int, str, str]]:
    """Return all migrations as (number, file name, SQL), in order."""
    found = []
    for entry in files("perdure.store").joinpath("migrations").iterdir():
        match = _NUMBERED.fullmatch(entry.name)
        if match:
            found.append((int(match[1]), entry.name, entry.read_text(encoding="utf-8")))
    return sorted(found)


def statements_of(sql: str, dialect: str) -> list[str]:
    """Split a file into its statements in a dialect. A semicolon at the end of a line ends a statement."""
    for name, word in WORDS[dialect].items():
        sql = sql.replace("{{" + name + "}}", word)
    sql = re.sub(r"--[^\n]*", "", sql)
    parts = (part.strip() for part in re.split(r";\s*(?:\n|$)", sql))
    return [part for part in parts if part and not part.startswith(_OTHERS)]


def digest_of(sql: str) -> str:
    """Return the digest by which a migration's file is recognized."""
    return sha256(sql.encode()).hexdigest()


async def migrate(database: Database) -> list[str]:
    """Apply the pending migrations; return the names of their files.

    Raises:
        Unavailable: another version of Perdure has migrated the database, and this one does not know how.
    """
    migrations = load_migrations()

    async def body(tx: Tx) -> list[str]:
        await tx.take_time()
        await hold(tx, Lock.MIGRATE)
        await tx.run(
            "CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY,"
            " name TEXT NOT NULL, applied_at BIGINT NOT NULL)"
        )
        done = {row[0] for row in await tx.all("SELECT number FROM migrations")}
        await _check_applied(tx, migrations, done)
        applied = []
        for number, name, sql in migrations:
            if number in done:
                continue
            for statement in statements_of(sql, tx.dialect):
                await tx.run(statement)
            await tx.run(
                "INSERT INTO migrations (number, name, applied_at) VALUES (?, ?, ?)",
                number,
                name,
                time.time_ns() // 1000,
            )
            applied.append(name)
        if applied:
            await tx.run_many(
                "UPDATE migrations SET digest = ? WHERE number = ? AND digest IS NULL",
                [(digest_of(sql), number) for number, _, sql in migrations],
            )
        return applied

    try:
        return await database.write(body)
    except PerdureError:
        raise
    except Exception as error:
        raise Unavailable(
            f"the database cannot be migrated: {error}. Something else than Perdure made or changed its"
            " tables: use another database, or restore a backup of this one"
        ) from error


async def check_migrated(tx: Tx) -> None:
    """Check that a database has exactly the migrations of this version, to read it.

    Raises:
        Unavailable: it does not; the message says what to do.
    """
    if await _missing_tables(tx, ["CREATE TABLE migrations"]) is not None:
        raise Unavailable("the database has no tables of Perdure: is it the right one?")
    migrations = load_migrations()
    done = {row[0] for row in await tx.all("SELECT number FROM migrations")}
    await _check_applied(tx, migrations, done)
    if pending := {number for number, _, _ in migrations} - done:
        raise Unavailable(
            f"the database was made by an older Perdure (it lacks migration {min(pending)}): start a server"
            " of this version once, which migrates it"
        )


async def _check_applied(tx: Tx, migrations: list[tuple[int, str, str]], done: set[int]) -> None:
    """Check that this version knows every migration of the database, and knows it as it was applied.

    Raises:
        Unavailable: it does not; the message says what to do.
    """
    known = {number: (name, digest_of(sql)) for number, name, sql in migrations}
    if unknown := done - known.keys():
        raise Unavailable(
            f"the database is at migration {max(unknown)}, which this version of Perdure does not know (its"
            f" newest is {migrations[-1][0]}): use a newer Perdure, at least the one that migrated it"
        )
    if DIGESTS in done:
        for number, digest in await tx.all("SELECT number, digest FROM migrations WHERE digest IS NOT NULL"):
            if known[number][1] != digest:
                raise _edited(known[number][0])
    elif done:
        missing = await _missing_tables(tx, [sql for number, _, sql in migrations if number in done])
        if missing:
            raise _edited(known[min(done)][0], f" (the table {missing} is missing)")


async def _missing_tables(tx: Tx, files: list[str]) -> str | None:
    """Return a table that these migrations create, but the database does not have."""
    statements = [statement for sql in files for statement in statements_of(sql, tx.dialect)]
    tables = [match[1] for match in map(_CREATE.match, statements) if match]
    names = await tx.all(
        "SELECT name FROM sqlite_master WHERE type = 'table'"
        if tx.dialect == "sqlite"
        else "SELECT tablename FROM pg_tables WHERE schemaname = ANY (current_schemas(false))"
    )
    found = {row[0] for row in names}
    return next((table for table in tables if table not in found), None)


def _edited(name: str, reason: str = "") -> Unavailable:
    return Unavailable(
        f"the database was made with another version of the migration {name}{reason}: use the Perdure that"
        " made it, or move the database away and start with a new one"
    )
