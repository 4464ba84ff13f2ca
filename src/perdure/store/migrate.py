"""Migrations: numbered SQL files, forward only, all pending ones in one transaction, under a lock.

Each file serves both databases; `{{name}}` is replaced by the dialect's word for it (`WORDS`).
"""

from __future__ import annotations

import re
import time
from importlib.resources import files

from perdure.domain.errors import Unavailable
from perdure.store.database import Database, Tx
from perdure.store.locks import Lock, hold

WORDS = {
    "sqlite": {
        "blob": "BLOB",
        "clustered": " WITHOUT ROWID",
        "bigserial": "INTEGER",
        "unlogged": "TABLE",
        "bytewise": "",
        "updated": "",
    },
    "postgres": {
        "blob": "BYTEA",
        "clustered": "",
        "bigserial": "BIGSERIAL",
        "unlogged": "UNLOGGED TABLE",
        "bytewise": ' COLLATE "C"',
        "updated": " WITH (fillfactor = 80)",
    },
}

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
    return [part.strip() for part in re.split(r";\s*(?:\n|$)", sql) if part.strip()]


async def migrate(database: Database) -> list[str]:
    """Apply the pending migrations; return the names of their files.

    Raises:
        Unavailable: a newer version of Perdure has migrated the database.
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
        newest = migrations[-1][0]
        if done and max(done) > newest:
            raise Unavailable(
                f"the database is at migration {max(done)}, but this version of Perdure knows only {newest}:"
                " use a newer Perdure, at least the one that migrated it"
            )
        applied = []
        for number, name, sql in migrations:
            if number in done:
                continue
            for statement in statements_of(sql, tx.dialect):
                await tx.run(statement)
            await tx.run("INSERT INTO migrations VALUES (?, ?, ?)", number, name, time.time_ns() // 1000)
            applied.append(name)
        return applied

    return await database.write(body)
