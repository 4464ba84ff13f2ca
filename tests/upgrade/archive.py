"""Databases as files: packed as a kill left them, and unpacked for the present code.

SQLite is kept as it lies in the data folder, its write-ahead log included. PostgreSQL is kept as the SQL
that `pg_dump` writes, so that any later PostgreSQL takes it. Both come with the master key and with what
the old server showed of every log.
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import asyncpg

from tests.postgres_server import _installation
from tests.talk import Json

LOGS, DUMP, KEY, SQLITE = "logs.json", "dump.sql", "master.key", "perdure.db"
# Only newer servers know the first; the others are words for psql.
NOT_FOR_ALL = re.compile(r"^(SET transaction_timeout = 0;|\\(un)?restrict \w+)\n", re.MULTILINE)


def pack(archive: Path, data: Path, database_url: str, logs: dict[str, list[Json]]) -> None:
    """Keep a database whose server has been killed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(data / KEY, folder)
        (folder / LOGS).write_text(json.dumps(logs, ensure_ascii=False))
        if database_url:
            (folder / DUMP).write_text(_dumped(database_url))
        else:
            for each in (SQLITE, f"{SQLITE}-wal"):
                shutil.copy(data / each, folder)
        with tarfile.open(archive, "w:xz", preset=9) as tar:
            for path in sorted(folder.iterdir()):
                tar.add(path, path.name, filter=_anonymous)


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without whoever packed it, and when."""
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


def _dumped(url: str) -> str:
    program = _installation() / "bin" / "pg_dump"
    options = ("--no-owner", "--no-privileges", "--inserts", "--rows-per-insert=100", "--encoding=UTF8")
    done = subprocess.run([program, *options, url], capture_output=True, text=True, check=True)
    return NOT_FOR_ALL.sub("", done.stdout)


async def unpack(archive: Path, data: Path, database_url: str, move: Json) -> dict[str, list[Json]]:
    """Put a database where the present server finds it; what the old server showed of the logs.

    Args:
        move: `sql` and its `values`: the one change that is made, in the words of the old schema. It moves
            the providers to the address where the model is now.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        data.mkdir(parents=True)
        shutil.copy(folder / KEY, data)
        (data / KEY).chmod(0o600)
        if database_url:
            await _restore(database_url, (folder / DUMP).read_text(), move)
        else:
            _copy_sqlite(folder, data, move)
        logs: dict[str, list[Json]] = json.loads((folder / LOGS).read_text())
        return logs


async def _restore(url: str, dump: str, move: Json) -> None:
    connection: Any = await asyncpg.connect(url)
    try:
        await connection.execute(dump)
        await connection.execute("SET search_path = public")
        done = await connection.execute(move["sql"], *move["values"])
        assert done != "UPDATE 0"
    finally:
        await connection.close()


def _copy_sqlite(folder: Path, data: Path, move: Json) -> None:
    connection = sqlite3.connect(folder / SQLITE)
    try:
        # The write-ahead log must not be taken into the database: the present server is to do that. So the
        # files are copied while the connection is open.
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        assert connection.execute(re.sub(r"\$\d", "?", move["sql"]), move["values"]).rowcount
        connection.commit()
        for each in (SQLITE, f"{SQLITE}-wal"):
            shutil.copy(folder / each, data)
    finally:
        connection.close()
