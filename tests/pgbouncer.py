"""The real PgBouncer, from the system's package, in front of the tests' PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import pytest

from tests.ports import free_port, until_open

SIZE = 4
"""Connections to PostgreSQL, fewer than one process's pool has."""


def installed() -> str:
    """The program's path; skips the test without it."""
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip("PgBouncer is not installed (Debian: `apt-get install pgbouncer`)")
    return found


@asynccontextmanager
async def pgbouncer(url: str, folder: Path) -> AsyncIterator[str]:
    """Run it in transaction mode; gives the database's URL through it."""
    program, port, parts = installed(), free_port(), urlsplit(url)
    folder.mkdir()
    users = folder / "users.txt"
    users.write_text(f'"{parts.username}" "{unquote(parts.password or "")}"\n')
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n* = host={parts.hostname} port={parts.port}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = md5\nauth_file = {users}\npool_mode = transaction\n"
        f"default_pool_size = {SIZE}\nmax_client_conn = 500\n"
    )
    user: list[str] = []
    if os.getuid() == 0:  # it refuses to run as root
        user = ["--user", "nobody"]
        for path in (folder, users, config):
            path.chmod(0o755 if path.is_dir() else 0o644)
        for parent in folder.parents:
            if parent.stat().st_uid == 0 and parent != Path("/") and not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(program, *user, str(config), stdout=log, stderr=log)
    try:
        await until_open(port, process, log=folder / "log")
        netloc = parts.netloc.rpartition("@")[0] + f"@127.0.0.1:{port}"
        yield urlunsplit(parts._replace(netloc=netloc))
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
