"""Initial files: what layers and capabilities put into a new session."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from perdure.app.accounts import bootstrap
from perdure.app.forks import fork_session
from perdure.app.sessions import create_session
from perdure.capabilities.port import Capability
from perdure.capabilities.registry import Registry
from perdure.domain.sessions import CreateSession, ForkSession, InitialFile
from perdure.domain.tools import CapabilityRef
from perdure.settings import Settings
from perdure.store.blobs import read_content
from perdure.store.database import Tx
from perdure.store.files import list_tree
from perdure.tools.built_in import built_in
from perdure.wiring import open_parts
from tests.journeys.trees import Tree
from tests.server import post
from tests.talk import Json, new_talk


async def test_initial_files_of_all_layers_exist_and_the_last_layer_wins(api: httpx.AsyncClient) -> None:
    def files(layer: str, *names: str) -> list[Json]:
        return [{"path": f"/{name}", "content": layer, "is_readonly": name == "fixed"} for name in names]

    base = await post(
        api,
        "/v1/harnesses",
        {"name": f"base-{os.urandom(4).hex()}", "initial_files": files("parent", "p", "all")},
    )
    body = {
        "name": f"child-{os.urandom(4).hex()}",
        "parent_harness_id": base["id"],
        "initial_files": files("child", "h", "all"),
    }
    child = await post(api, "/v1/harnesses", body)
    body = {
        "name": f"agent-{os.urandom(4).hex()}",
        "system_prompt": "Help.",
        "harness_id": child["id"],
        "initial_files": files("agent", "a", "all", "fixed"),
    }
    agent = await post(api, "/v1/agents", body)
    talk = await new_talk(api, agent_id=agent["id"], initial_files=files("session", "s", "all"))
    tree = Tree(talk, talk.path())
    contents = {path: (await tree.read(path))["content"] for path in await tree.paths()}
    assert contents == {
        "/p": "parent",
        "/h": "child",
        "/a": "agent",
        "/fixed": "agent",
        "/s": "session",
        "/all": "session",
    }
    assert (await tree.read("fixed"))["is_readonly"]


@pytest.mark.parametrize(
    "files",
    [
        [{"path": "/", "content": ""}],
        [{"path": "/a\x01", "content": ""}],
        [{"path": "/_/a", "content": ""}],
        [{"path": "/a", "content": "?", "encoding": "base64"}],
    ],
)
async def test_invalid_initial_files_are_refused(api: httpx.AsyncClient, files: list[Json]) -> None:
    refused = await api.post("/v1/sessions", json={"initial_files": files})
    assert refused.status_code == 400
    assert refused.json()["field"].startswith("initial_files[0]")


HANDBOOK = Capability(
    id="handbook",
    name="Handbook",
    description="For tests.",
    category="test",
    files=lambda config: (
        InitialFile("/handbook/rules.md", f"Rules for {(config or {}).get('team', 'all')}."),
        InitialFile("/handbook/logo.png", base64.b64encode(b"\x89PNG\0").decode(), "base64"),
    ),
)


async def test_a_capabilitys_files_are_read_only_and_stored_once(tmp_path: Path, database_url: str) -> None:
    async with open_parts(Settings(data=str(tmp_path), database_url=database_url)) as parts:
        app = replace(parts.app, registry=Registry((*built_in(parts.app), HANDBOOK)))
        owner = await bootstrap(app)
        body = CreateSession(capabilities=(CapabilityRef("handbook", {"team": "sales"}),))
        for _ in range(3):
            session = await create_session(app, owner, body)
        await fork_session(app, owner, session.id, ForkSession())

        async def look(tx: Tx) -> tuple[dict[str, bytes], set[int], list[Any]]:
            rows = [
                row
                for row in await list_tree(tx, owner.organization_id, session.workspace_id)
                if not row.is_directory
            ]
            held = {row.path: await read_content(tx, row.org_id, row.hash, row.size_bytes) for row in rows}
            counts = await tx.one(
                "SELECT (SELECT COUNT(*) FROM blobs), (SELECT COUNT(*) FROM files WHERE is_directory = 0)"
            )
            return held, {row.is_readonly for row in rows}, list(counts or ())

        held, readonly, counts = await app.database.read(look)
        assert held == {"/handbook/rules.md": b"Rules for sales.", "/handbook/logo.png": b"\x89PNG\0"}
        assert readonly == {1}
        assert counts == [2, 8]
