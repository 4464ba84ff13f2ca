"""The contract's published client, unmodified: workspaces and files."""

from __future__ import annotations

import httpx
import pytest
from everruns_sdk import (
    ApiError,
    Everruns,
    InitialFile,
    NotFoundError,
)

from tests.journeys.people import fresh
from tests.journeys.published_client import Place, followed
from tests.talk import call, script

pytestmark = pytest.mark.filterwarnings("ignore:Everruns.*deprecated:DeprecationWarning")


async def test_workspaces_are_created_found_changed_and_archived(sdk: Everruns) -> None:
    name = fresh("Quarterly report")
    space = await sdk.workspaces.create(name, description="For all.")
    assert (space.name, space.description, space.status, space.archived_at) == (
        name,
        "For all.",
        "active",
        None,
    )
    assert (await sdk.workspaces.get(space.id)).model_dump() == space.model_dump()
    assert [each.id for each in await sdk.workspaces.list(search=name.upper())] == [space.id]
    changed = await sdk.workspaces.update(space.id, description="For some.")
    assert (changed.name, changed.description, changed.updated_at > space.updated_at) == (
        name,
        "For some.",
        True,
    )
    await sdk.workspaces.delete(space.id)
    assert [each.id for each in await sdk.workspaces.list(search=name)] == []
    archived = (await sdk.workspaces.list(search=name, include_archived=True))[0]
    assert (archived.id, archived.status, archived.archived_at is not None) == (space.id, "archived", True)
    assert (await sdk.workspaces.update(space.id, status="active")).archived_at is None


async def test_files_are_written_read_listed_moved_searched_and_deleted(sdk: Everruns) -> None:
    space, files = (await sdk.workspaces.create(fresh("Files"))).id, sdk.workspace_files
    plan = await files.create(space, "/notes/plän 1.md", "Buy milk.\nBuy bread.\n")
    assert (plan.path, plan.name, plan.size_bytes, plan.is_readonly) == (
        "/notes/plän 1.md",
        "plän 1.md",
        21,
        False,
    )
    assert (await files.read(space, "notes/plän 1.md")).content == "Buy milk.\nBuy bread.\n"
    with pytest.raises(ApiError) as exists:
        await files.create(space, "/notes/plän 1.md", "other")
    assert (exists.value.status_code, exists.value.code) == (409, "file_exists")
    assert (await files.update(space, "/notes/plän 1.md", "Buy oats.")).size_bytes == 9
    image = await files.create(space, "/image.bin", "AP+A", encoding="base64", is_readonly=True)
    assert (image.size_bytes, image.is_readonly) == (3, True)
    back = await files.read(space, "/image.bin")
    assert (back.content, back.encoding) == ("AP+A", "base64")
    folder = await files.create_dir(space, "/empty")
    assert (folder.is_directory, folder.size_bytes) == (True, 0)
    assert [(each.path, each.is_directory) for each in await files.list(space)] == [
        ("/empty", True),
        ("/image.bin", False),
        ("/notes", True),
    ]
    assert [each.name for each in await files.list(space, "/notes")] == ["plän 1.md"]
    assert {each.path for each in await files.list(space, recursive=True)} == {
        "/empty",
        "/image.bin",
        "/notes",
        "/notes/plän 1.md",
    }
    copy = await files.copy_file(space, "/notes/plän 1.md", "/copy/plan.md")
    assert (copy.path, copy.size_bytes) == ("/copy/plan.md", 9)
    assert (await files.move_file(space, "/copy", "/moved")).is_directory
    found = await files.grep(space, r"oa[t]s", path_pattern="/moved/**")
    assert [(each.path, [(hit.line_number, hit.line) for hit in each.matches]) for each in found] == [
        ("/moved/plan.md", [(1, "Buy oats.")])
    ]
    assert len(await files.grep(space, "oats")) == 2
    stat = await files.stat(space, "/moved/plan.md")
    assert (stat.name, stat.size_bytes, stat.is_directory) == ("plan.md", 9, False)
    with pytest.raises(ApiError) as readonly:
        await files.delete(space, "/image.bin")
    assert (readonly.value.status_code, readonly.value.code) == (403, "file_read_only")
    with pytest.raises(ApiError) as full:
        await files.delete(space, "/notes")
    assert (full.value.status_code, full.value.code) == (409, "folder_not_empty")
    for path, whole in (("/notes", True), ("/empty", None), ("/moved/plan.md", None)):
        assert (await files.delete(space, path, recursive=whole)).deleted
    with pytest.raises(NotFoundError):
        await files.read(space, "/notes/plän 1.md")


async def test_a_sessions_files_are_those_of_its_workspace(place: Place, sdk: Everruns) -> None:
    session = await sdk.sessions.create(initial_files=[InitialFile(path="/a.txt", content="from the start")])
    steps = (
        {"tool_calls": [call("write_file", path="/b.txt", content="from the agent")]},
        {"text": "Written."},
    )
    await sdk.messages.create(session.id, script(*steps))
    await followed(sdk, session.id)
    headers = {"authorization": place.token}
    async with httpx.AsyncClient(base_url=place.server.url, headers=headers) as http:
        space = (await http.get(f"/v1/sessions/{session.id}")).json()[
            "workspace_id"
        ]  # its model of a session has no such field
    assert [each.path for each in await sdk.workspace_files.list(space)] == ["/a.txt", "/b.txt"]
    read = await sdk.workspace_files.read(space, "/b.txt")
    assert (read.content, read.session_id) == ("from the agent", session.id)
    await sdk.workspace_files.update(space, "/b.txt", "from outside")
    await sdk.messages.create(
        session.id, script({"tool_calls": [call("read_file", path="/b.txt")]}, {"text": "Read."})
    )
    last = (await sdk.events.list(session.id, order_desc=True, limit=1))[0]
    await followed(sdk, session.id, since_id=last.id)
    assert "from outside" in str(
        [each.content for each in await sdk.messages.list(session.id) if each.role == "tool_result"][-1]
    )
