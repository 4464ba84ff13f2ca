"""Sessions and organizations move between databases, of the same kind or the other one."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.deferring import installed
from tests.keeping import fill, keep, verified
from tests.postgres_server import PostgresServer
from tests.server import Server
from tests.talk import Json, Talk, text_in

BOTH = pytest.mark.parametrize(("source", "target"), [("sqlite", "postgres"), ("postgres", "sqlite")])


class Places:
    """A server's database, and an empty one."""

    def __init__(self, folder: Path, source: str, target: str) -> None:
        self.folder, self.file = folder, folder / "moved.export"
        self.environment = installed(folder / "site")
        self.source = Server(folder / "source", database_url=source, environment=self.environment)
        self.target = Server(folder / "target", database_url=target, environment=self.environment)
        self.key = folder / "key"
        self.key.write_text("ab" * 32)

    async def export(self, *arguments: str | Path) -> Json:
        """Export from the source."""
        self.file.unlink(missing_ok=True)
        return await printed("export", self.source, self.file, *arguments)

    async def bring(self, *arguments: str | Path) -> Json:
        """Import into the target."""
        return await printed("import", self.target, self.file, *arguments)


async def printed(command: str, server: Server, *arguments: str | Path) -> Json:
    """What a command prints as JSON."""
    done = await keep(command, server.data, server.database_url, *arguments, "--json")
    assert done.status == 0, done.err
    found: Json = json.loads(done.out)
    return found


async def refused(command: str, server: Server, *arguments: str | Path) -> str:
    """Why a command fails."""
    done = await keep(command, server.data, server.database_url, *arguments)
    assert done.status == 1, done.out
    return done.err


@pytest.fixture
async def places(
    source: str, target: str, tmp_path: Path, postgres_server: PostgresServer
) -> AsyncIterator[Places]:
    async with postgres_server.empty_database() as url:
        yield Places(tmp_path, *(url if each == "postgres" else "" for each in (source, target)))


async def filled(places: Places) -> tuple[str, dict[str, Any]]:
    """Fill the source and leave it running no longer; return a session and how it looks to clients."""
    async with places.source as server, httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        session = await fill(http, places.folder)
        talk = Talk(http, session)
        saved = await http.put(talk.path("/storage/secrets"), json={"secrets": {"TOKEN": "s3cret"}})
        assert saved.status_code == 200, saved.text
        await http.put(talk.path("/storage/keys/colour"), json={"value": "blue"})
        return session, await looks(http, session)


async def looks(http: httpx.AsyncClient, session: str) -> dict[str, Any]:
    """What clients see of a session and its organization."""
    paths = ("", "/events?limit=1000", "/messages", "/tasks", "/feedback", "/participants", "/fs/notes.md")
    seen = {path: (await http.get(f"/v1/sessions/{session}{path}")).json() for path in paths}
    for path in ("/v1/agents", "/v1/memories", "/v1/harnesses", "/v1/sessions", "/v1/spend", "/v1/models"):
        seen[path] = (await http.get(path)).json()
    org = seen[""]["organization_id"]
    for path in ("/v1/history?limit=1000", f"/v1/orgs/{org}/audit-logs?limit=1000"):
        seen[path] = (await http.get(path)).json()
        assert seen[path]["data"]
    for name in ("from_ts", "to_ts"):  # the last month, as seen from now
        del seen["/v1/spend"][name]
    return seen


@BOTH
async def test_an_organization_looks_the_same_in_another_database_and_works_on(places: Places) -> None:
    session, before = await filled(places)
    exported = await places.export("--secrets-key", places.key)
    assert exported["sessions"] >= 4
    done = await places.bring("--secrets-key", places.key)
    assert (done["sessions"], done["present"]) == (exported["sessions"], 0)
    again = await places.bring("--secrets-key", places.key)
    assert (again["sessions"], again["present"]) == (0, exported["sessions"])
    assert (await verified(places.target.data, places.target.database_url))[1] == []
    async with places.target as server, httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        after = await looks(http, session)
        for path, seen in before.items():
            assert after[path] == seen, path
        talk = Talk(http, session)
        await talk.turn({"text": "And on."})
        assert text_in((await talk.messages())[-1]) == "And on."
        assert "TOKEN" in (await http.get(talk.path("/storage/secrets"))).text
    assert (await verified(places.target.data, places.target.database_url))[1] == []


@BOTH
async def test_a_session_moves_with_what_it_needs_into_an_organization_that_has_others(
    places: Places,
) -> None:
    session, before = await filled(places)
    async with places.target as server, httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        await fill(http, places.folder / "site")
        org = (await http.get("/v1/sessions")).json()["data"][0]["organization_id"]
    exported = await places.export("--session", session)
    done = await places.bring()
    assert (done["org_id"], done["sessions"]) == (org, exported["sessions"])
    assert (await verified(places.target.data, places.target.database_url))[1] == []
    copied = await places.bring("--on-conflict", "copy")
    assert (copied["copied"], copied["sessions"]) == (1, 0)
    assert (await places.bring("--on-conflict", "copy"))["copied"] == 0
    assert (await verified(places.target.data, places.target.database_url))[1] == []
    async with places.target as server, httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        talk = Talk(http, session)
        assert [text_in(each) for each in await talk.messages()] == [
            text_in(each) for each in before["/messages"]["data"]
        ]
        assert (await http.get(talk.path("/storage/secrets"))).json()["data"] == []
        await talk.turn({"text": "And on."})
        listed = (await http.get("/v1/sessions?limit=100")).json()["data"]
        (copy,) = [each["id"] for each in listed if each.get("forked_from_session_id") == session]
        twin = Talk(http, copy)
        assert (await http.get(twin.path("/fs/notes.md"))).json()["content"] == "kept"
        await twin.turn({"text": "And on, too."})
    assert (await verified(places.target.data, places.target.database_url))[1] == []


@pytest.mark.parametrize(("source", "target"), [("sqlite", "postgres")])
async def test_bad_exports_and_keys_are_refused_and_change_nothing(places: Places) -> None:
    await filled(places)
    await places.export("--secrets-key", places.key)
    whole, target = places.file.read_bytes(), places.target
    text = gzip.decompress(whole)
    head, _, rest = text.partition(b"\n")
    files = {
        "end is missing": [whole[: len(whole) // 2], gzip.compress(text[: len(text) // 2])],
        "is not an export": [b"", b"hello", gzip.compress(b"{}\n")],
        "is damaged": [gzip.compress(text.replace(b"kept", b"lost").replace(b"Begun", b"Ended"))],
        "a newer release": [gzip.compress(head.replace(b'"version":1', b'"version":2') + b"\n" + rest)],
    }
    for reason, contents in files.items():
        for content in contents:
            places.file.write_bytes(content)
            assert reason in await refused("import", target, places.file)
    places.file.write_bytes(whole)
    places.key.write_text("cd" * 32)
    assert "sealed under another key" in await refused(
        "import", target, places.file, "--secrets-key", places.key
    )
    assert "no such organization" in await refused(
        "import", target, places.file, "--organization", "org_" + "0" * 32
    )
    assert "exists: choose another name" in await refused("export", places.source, places.file)
    async with places.source as server, httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        family = (await http.get("/v1/tasks")).json()
        child = family[0]["links"]["child_session_id"]
        other = places.folder / "other.export"
        assert "is a sub-agent's" in await refused("export", server, other, "--session", child)
        assert "stop it first" in await refused("import", server, places.file)
    assert (await verified(target.data, target.database_url))[1] == []


@pytest.mark.parametrize(("source", "target"), [("sqlite", "postgres")])
async def test_an_organization_goes_into_another_one_of_the_same_database_as_copies(places: Places) -> None:
    await filled(places)
    async with places.source as server, httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        second = (await http.post("/v1/orgs", json={"name": "Second"})).json()["id"]
    await places.export()
    into = ("--organization", second, "--on-conflict", "copy")
    done = await printed("import", places.source, places.file, *into)
    # The family without its two sub-agents; the session that is in a turn is not copied.
    assert (done["org_id"], done["copied"], done["present"]) == (second, 1, 1)
    assert (await printed("import", places.source, places.file, *into))["copied"] == 0
    assert (await verified(places.source.data))[1] == []
    async with places.source as server, httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        http.headers["X-Org-Id"] = second
        (copy,) = (await http.get("/v1/sessions")).json()["data"]
        assert copy["organization_id"] == second
        assert [each["name"] for each in (await http.get("/v1/agents")).json()["data"]] == ["helper"]
        await Talk(http, copy["id"]).say("Hello.")
