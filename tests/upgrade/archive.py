"""Databases as files: packed as a kill left them, and unpacked for the current code.

An SQLite database is packed as the files in its data folder, including the write-ahead log. A PostgreSQL
database is packed as the SQL of `pg_dump`, which any later PostgreSQL can load. Both include the master key,
and every log as the old server returned it.
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

# Python 3.11.4 brought the filter: the archives are ours, so older ones do without.
SAFELY: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
LOGS, DUMP, KEY, SQLITE = "logs.json", "dump.sql", "master.key", "perdure.db"
# Only newer servers know the first; the others are words for psql.
NOT_FOR_ALL = re.compile(r"^(SET transaction_timeout = 0;|\\(un)?restrict \w+)\n", re.MULTILINE)


def pack(archive: Path, data: Path, database_url: str, logs: dict[str, list[Json]]) -> None:
    """Pack a database whose server has been killed."""
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
    """Remove the owner and the time from an entry, so that equal databases give equal archives."""
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


def _dumped(url: str) -> str:
    program = _installation() / "bin" / "pg_dump"
    options = ("--no-owner", "--no-privileges", "--inserts", "--rows-per-insert=100", "--encoding=UTF8")
    done = subprocess.run([program, *options, url], capture_output=True, text=True, check=True)
    return NOT_FOR_ALL.sub("", done.stdout)


async def unpack(archive: Path, data: Path, database_url: str, move: Json) -> dict[str, list[Json]]:
    """Unpack a database for the current server; return the logs as the old server returned them.

    Args:
        move: `sql` and its `values`, the only change that is made, for the old schema. It moves the providers
            to the model's current address.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with tarfile.open(archive) as tar:
            tar.extractall(folder, **SAFELY)
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
        # The current server must replay the write-ahead log, not this connection. So the files are copied
        # while the connection is open.
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        assert connection.execute(re.sub(r"\$\d", "?", move["sql"]), move["values"]).rowcount
        connection.commit()
        for each in (SQLITE, f"{SQLITE}-wal"):
            shutil.copy(folder / each, data)
    finally:
        connection.close()
