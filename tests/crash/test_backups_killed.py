"""Backups and restores that are killed: no half of one is ever used."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import httpx
import pytest

from tests.command import environment
from tests.deferring import installed
from tests.fork_server import ROOT
from tests.keeping import fill, keep, verified, words
from tests.postgres_server import PostgresServer
from tests.server import Server, use_simulated_model
from tests.talk import new_talk

PROGRAM = Path(__file__).with_name("dying_in_backups.py")


async def killed(place: str, command: str, data: Path, url: str, *arguments: str | Path) -> None:
    """Run a command that is killed when it reports this progress."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, PROGRAM, place, *words(command, data, url, *arguments)),
        env=environment(PERDURE_DATABASE_URL=url, PYTHONPATH=ROOT),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == -9, said.decode()


async def filled(server: Server) -> str:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        await use_simulated_model(http)
        talk = await new_talk(http)
        await talk.turn({"text": "Kept."})
        return talk.id


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
async def test_a_killed_backup_leaves_no_file_and_a_killed_restore_no_database(
    engine: str, tmp_path: Path, postgres_server: PostgresServer
) -> None:
    url = empty = ""
    if engine == "postgres":
        url, empty = await postgres_server.create_database(), await postgres_server.create_database()
    file, target = tmp_path / "backup.zip", tmp_path / "target"
    async with Server(tmp_path / "data", database_url=url) as server:
        session = await filled(server)
        for place in ("copying the database", "writing the backup")[engine == "postgres" :]:
            await killed(place, "backup", server.data, url, file)
            assert not file.exists()
        assert (await keep("backup", server.data, url, file, "--with-key")).status == 0
    left = sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("backup"))
    assert left == ["backup.zip"]
    for place in ("checking the backup", "restoring the database"):
        await killed(place, "restore", target, empty, file, "--with-key")
    if engine == "sqlite":
        assert not (target / "perdure.db").exists()
        with pytest.raises(RuntimeError, match="a backup was being restored"):
            await Server(target).start()
        (target / "server.log").unlink()  # of the tests
    done = await keep("restore", target, empty, file, "--with-key")
    while "a restore into this database is running" in done.err:  # it still undoes what it did
        done = await keep("restore", target, empty, file, "--with-key")
    assert done.status == 0, done.err
    assert (await verified(target, empty))[1] == []
    async with (
        Server(target, database_url=empty) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        assert (await http.get(f"/v1/sessions/{session}")).status_code == 200
    assert not [path for path in target.iterdir() if "restoring" in path.name]
    for each in filter(None, (url, empty)):
        await postgres_server.drop_database(each)


@pytest.mark.parametrize(("source", "target"), [("sqlite", "postgres"), ("postgres", "sqlite")])
async def test_a_killed_import_is_repeated_and_loses_and_doubles_nothing(
    source: str, target: str, tmp_path: Path, postgres_server: PostgresServer
) -> None:
    file = tmp_path / "moved.export"
    async with postgres_server.empty_database() as url:
        here, there = (url if each == "postgres" else "" for each in (source, target))
        environment = installed(tmp_path / "site")
        async with (
            Server(tmp_path / "data", database_url=here, environment=environment) as server,
            httpx.AsyncClient(base_url=server.url, timeout=30) as http,
        ):
            await fill(http, tmp_path)
            await killed("exporting sessions@2", "export", server.data, here, file)
            assert not file.exists()
            assert (await keep("export", server.data, here, file)).status == 0
        whole = await imported(file, tmp_path / "whole", "")
        for row in (5, whole["rows"] // 2, whole["rows"] - 2):
            await killed(f"importing@{row}", "import", tmp_path / "target", there, file)
        again = await imported(file, tmp_path / "target", there)
        assert again["sessions"] + again["present"] == whole["sessions"]
        done, differences = await verified(tmp_path / "target", there)
        assert (differences, done) == ([], (await verified(tmp_path / "whole"))[0])


async def imported(file: Path, data: Path, url: str) -> dict[str, int]:
    """What an import says that it has done."""
    done = await keep("import", data, url, file, "--json")
    assert done.status == 0, done.err
    found: dict[str, int] = json.loads(done.out)
    return found
