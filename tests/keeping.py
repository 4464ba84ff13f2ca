"""Backups and checks of a server's database, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from perdure.domain.verification import Difference, Verified
from perdure.keeping import verify_database
from perdure.settings import Settings
from tests.command import Done, perdure
from tests.postgres_server import _installation


async def keep(command: str, data: Path, url: str, *arguments: str | Path) -> Done:
    """Run a command on a database, with the programs of the tests' own PostgreSQL."""
    return await perdure(*words(command, data, url, *arguments), PERDURE_DATABASE_URL=url, limit=60)


def words(command: str, data: Path, url: str, *arguments: str | Path) -> list[str]:
    """The arguments of a command on a database."""
    tools = ["--pg-bin", str(_installation() / "bin")] if url and command in ("backup", "restore") else []
    return [command, *map(str, arguments), "--data", str(data), *tools]


async def verified(data: Path, url: str = "", *, contents: bool = True) -> tuple[Verified, list[Difference]]:
    """Check a database in this process; return what was checked, and what differs."""
    found: list[Difference] = []
    settings = Settings(data=str(data), database_url=url)
    done = await verify_database(settings, found.append, lambda *_: None, contents=contents)
    return done, found


def manifest_in(done: Done) -> dict[str, Any]:
    """The manifest that a command with --json has printed."""
    assert done.status == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found
