"""Backups of running servers, and their way back."""

from __future__ import annotations

import asyncio
import json
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import httpx
import pytest

from perdure.domain.errors import PerdureError
from perdure.keeping import restore_backup
from perdure.settings import Settings
from tests.journeys.families import CAPABILITIES, all_ended, spawns
from tests.keeping import keep, manifest_in, verified
from tests.postgres_server import PostgresServer
from tests.server import Server, post, use_simulated_model
from tests.talk import Talk, body_of, new_talk, script, text_in

ENGINES = pytest.mark.parametrize("engine", ["sqlite", "postgres"])


class Place:
    """A server at work, and an empty place of the same kind."""

    def __init__(self, folder: Path, url: str, empty: str) -> None:
        self.server = Server(folder / "data", database_url=url)
        self.file = folder / "backup.zip"
        self.data, self.empty = folder / "restored", empty


@pytest.fixture
async def place(engine: str, tmp_path: Path, postgres_server: PostgresServer) -> AsyncIterator[Place]:
    if engine == "sqlite":
        yield Place(tmp_path, "", "")
        return
    async with postgres_server.empty_database() as url, postgres_server.empty_database() as empty:
        yield Place(tmp_path, url, empty)


@asynccontextmanager
async def client_of(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        yield http


async def filled(http: httpx.AsyncClient) -> Talk:
    """A session with an answer, a sub-agent, a file, a secret and a rating."""
    await use_simulated_model(http)
    talk = await new_talk(http, capabilities=CAPABILITIES)
    await talk.turn({"tool_calls": [spawns("one", {"text": "1"})]}, {"text": "Begun."})
    await all_ended(talk)
    await post(http, talk.path("/fs/notes.md"), {"content": "kept"})
    saved = await http.put(talk.path("/storage/secrets"), json={"secrets": {"TOKEN": "s3cret"}})
    assert saved.status_code < 300, saved.text
    return talk


class Load:
    """Clients that post messages to sessions of their own until they are stopped."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.sent: dict[str, list[str]] = {}
        """By session: the ids of the messages that were answered with 201."""
        self._http = http
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._post()) for _ in range(4)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _post(self) -> None:
        talk = await new_talk(self._http)
        self.sent[talk.id] = []
        while True:
            made = await post(self._http, talk.path("/messages"), body_of(script({"text": "Yes. " * 50})))
            self.sent[talk.id].append(made["id"])

    async def grown(self, by: int) -> None:
        """Wait until so many messages more were answered."""
        goal = self.count() + by
        async with asyncio.timeout(30):
            while self.count() < goal:
                await asyncio.sleep(0.01)

    def count(self) -> int:
        return sum(map(len, self.sent.values()))


@ENGINES
async def test_a_backup_made_under_load_has_all_that_was_acknowledged_before_it(place: Place) -> None:
    async with place.server as server, client_of(server) as http:
        talk = await filled(http)
        async with Load(http) as load:
            await load.grown(20)
            before = {session: list(sent) for session, sent in load.sent.items()}
            made = await keep("backup", server.data, server.database_url, place.file, "--with-key", "--json")
            await load.grown(5)
        manifest = manifest_in(made)
        assert manifest["with_key"] is True
        assert manifest["rows"]["sessions"] == 6
        assert place.file.stat().st_mode & 0o077 == 0
        assert [path.name for path in place.file.parent.iterdir() if "backup" in path.name] == ["backup.zip"]
    back = manifest_in(await keep("restore", place.data, place.empty, place.file, "--with-key", "--json"))
    assert back == manifest
    done, differences = await verified(place.data, place.empty)
    assert (differences, done.sessions) == ([], 6)
    async with Server(place.data, database_url=place.empty) as server, client_of(server) as http:
        for session, sent in before.items():
            found = {each["id"] for each in await Talk(http, session).messages()}
            assert found >= set(sent)
        same = Talk(http, talk.id)
        assert (await http.get(same.path("/fs/notes.md"))).json()["content"] == "kept"
        await same.turn({"text": "And on."})
        assert text_in((await same.messages())[-1]) == "And on."
        names = (await http.get(same.path("/storage/secrets"))).json()
        assert "TOKEN" in json.dumps(names)
    assert (await verified(place.data, place.empty))[1] == []


@ENGINES
async def test_without_its_master_key_a_restored_database_says_which_key_it_needs(place: Place) -> None:
    async with place.server as server, client_of(server) as http:
        await filled(http)
        made = await keep("backup", server.data, server.database_url, place.file)
    assert made.status == 0, made.err
    assert "is not in the file" in made.err
    with zipfile.ZipFile(place.file) as archive:
        assert "master.key" not in archive.namelist()
    refused = await keep("restore", place.data, place.empty, place.file, "--with-key")
    assert (refused.status, "the master key is not in the backup" in refused.err) == (1, True)
    done = await keep("restore", place.data, place.empty, place.file)
    assert done.status == 0, done.err
    assert "put it into the data folder as master.key" in done.err
    assert (await verified(place.data, place.empty))[1] == []  # no secret is needed for that
    restored = Server(place.data, database_url=place.empty)
    with pytest.raises(RuntimeError, match="encrypted under the master key"):
        await restored.start()
    await restored.kill()
    place.data.mkdir(exist_ok=True)
    key = place.data / "master.key"
    key.write_bytes((place.server.data / "master.key").read_bytes())
    key.chmod(0o600)
    async with restored, client_of(restored) as http:
        assert (await http.get("/v1/sessions")).json()["data"]


@ENGINES
async def test_a_target_that_is_not_empty_is_refused_and_left_alone(place: Place) -> None:
    async with place.server as server, client_of(server) as http:
        talk = await filled(http)
        assert (await keep("backup", server.data, server.database_url, place.file)).status == 0
        again = await keep("backup", server.data, server.database_url, place.file)
        assert (again.status, "exists: choose another name" in again.err) == (1, True)
        refused = await keep("restore", server.data, server.database_url, place.file)
        assert (refused.status, "is not empty" in refused.err) == (1, True)
        await talk.turn({"text": "And on."})


async def test_a_file_that_is_no_whole_backup_is_refused_with_the_reason(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    server, good = Server(tmp_path / "data"), tmp_path / "good.zip"
    async with server, client_of(server) as http:
        await filled(http)
        assert (await keep("backup", server.data, "", good)).status == 0
    whole = good.read_bytes()
    with zipfile.ZipFile(good) as archive:
        entry = archive.getinfo("database.sqlite")
        manifest = json.loads(archive.read("manifest.json"))
    middle = entry.header_offset + entry.compress_size // 2
    files = {
        "is not a backup, or not a whole one": [b"", b"hello", whole[:-50], whole[: len(whole) // 2]],
        "the backup is damaged": [whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]],
        "use a newer release": [repacked(manifest | {"version": 2})],
        "knows up to": [repacked(manifest | {"migration": 9999})],
        "has another format": [repacked({"format": "zip"})],
        "has no manifest": [repacked(None)],
        "it has no database.sqlite": [repacked(manifest)],
        "cannot be read": [repacked({"format": "perdure-backup", "version": 1})],
    }
    for reason, contents in files.items():
        for content in contents:
            bad = tmp_path / "bad.zip"
            bad.write_bytes(content)
            with pytest.raises(PerdureError, match=reason):
                await restore_backup(Settings(data=str(tmp_path / "target")), bad, lambda *_: None)
            assert not (tmp_path / "target" / "perdure.db").exists()
    async with postgres_server.empty_database() as url:
        refused = await keep("restore", tmp_path / "target", url, good)
        assert (refused.status, "is of a SQLite database" in refused.err) == (1, True)
    missing = await keep("restore", tmp_path / "target", "", tmp_path / "none.zip")
    assert (missing.status, "cannot read" in missing.err) == (1, True)
    assert (await keep("backup", tmp_path / "nothing", "", tmp_path / "b.zip")).status == 1
    assert (await keep("restore", tmp_path / "target", "", good)).status == 0


def repacked(manifest: object | None) -> bytes:
    """A ZIP archive with this manifest and nothing else."""
    from io import BytesIO

    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        if manifest is not None:
            archive.writestr("manifest.json", json.dumps(manifest))
    return file.getvalue()


async def test_programs_of_postgresql_that_are_missing_or_too_old_are_named(
    tmp_path: Path, empty_postgres_url: str
) -> None:
    from tests.command import perdure

    old = tmp_path / "old"
    old.mkdir()
    program = old / "pg_dump"
    program.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.1'\n")
    program.chmod(0o755)
    async with Server(tmp_path / "data", database_url=empty_postgres_url):
        for folder, reason in ((old, "is of PostgreSQL 9"), (tmp_path, "there is no pg_dump in")):
            refused = await perdure(
                *("backup", str(tmp_path / "b.zip"), "--pg-bin", str(folder)),
                PERDURE_DATABASE_URL=empty_postgres_url,
            )
            assert refused.status == 1
            assert reason in refused.err
            assert "apt-get install postgresql-client-" in refused.err
            assert not (tmp_path / "b.zip").exists()
