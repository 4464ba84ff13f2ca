"""What the files of messages may be, where they are put, and what the log says of them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from msgspec.structs import replace

from perdure.app import attachments, images
from perdure.app.accounts import bootstrap
from perdure.app.agents import change_agent, create_agent
from perdure.app.attachments import MAX_BYTES, receive, safe_name
from perdure.app.context import App
from perdure.app.file_access import OfSession
from perdure.app.files import create_path, list_folder
from perdure.app.images import delete_image, list_images, read_thumbnail, upload_image
from perdure.app.messages import post_message
from perdure.app.sessions import create_session
from perdure.app.workspaces import archive_workspace, create_workspace
from perdure.domain.accounts import Caller
from perdure.domain.agents import CreateAgent, UpdateAgent
from perdure.domain.errors import Conflict, InvalidInput, NotFound, PerdureError, TooLarge, Unavailable
from perdure.domain.files import CreateFile
from perdure.domain.ids import SessionId, WorkspaceId
from perdure.domain.messages import (
    MAX_FILENAME,
    AttachedPart,
    CreateMessage,
    FilePart,
    ImageFilePart,
    ImagePart,
    InputMessage,
)
from perdure.domain.sessions import CreateSession
from perdure.domain.tools import CapabilityRef
from perdure.domain.workspaces import CreateWorkspace
from perdure.settings import Settings
from perdure.store.confidential import reader_of
from perdure.wiring import open_parts
from tests.media_files import png
from tests.sites import Site

LIMIT = 2_000
"""Bytes of a file in these tests."""


class Desk:
    """A session in this process. Tests open it themselves: only what starts in a test is measured."""

    app: App
    owner: Caller
    session_id: SessionId

    def __init__(self, folder: Path) -> None:
        self._settings = Settings(data=str(folder), max_file_bytes=LIMIT, private_addresses=True)
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        parts = await self._stack.enter_async_context(open_parts(self._settings))
        self.app, self.owner = parts.app, await bootstrap(parts.app)
        await self.begin()

    async def close(self) -> None:
        await self._stack.aclose()

    async def begin(self, **fields: Any) -> None:
        """Begin another session."""
        self.session_id = (await create_session(self.app, self.owner, CreateSession(**fields))).id

    async def put(self, path: str, body: CreateFile) -> None:
        await create_path(self.app, self.owner, OfSession(self.session_id), path, body)

    async def post(self, *parts: AttachedPart) -> list[Any]:
        """Send a message; return its parts as the log has them."""
        body = CreateMessage(InputMessage(parts))
        return list((await post_message(self.app, self.owner, self.session_id, body)).content)

    async def paths(self, folder: str = "/attachments") -> list[str]:
        at = OfSession(self.session_id)
        listed = await list_folder(self.app, self.owner, at, folder, recursive=False)
        return [each.path for each in listed.data]

    async def refused(self, *parts: AttachedPart, first: bool = False) -> PerdureError:
        """The error; `first`: of a message that creates its session."""
        with pytest.raises(PerdureError) as error:
            await receive(self.app, self.owner, None if first else self.session_id, parts)
        return error.value


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    made = Desk(tmp_path)
    yield made
    await made.close()


def file(data: bytes = b"pears", filename: str | None = None, **more: Any) -> FilePart:
    return FilePart(base64=base64.b64encode(data).decode(), filename=filename, **more)


async def test_the_log_has_clean_names_of_files(desk: Desk) -> None:
    await desk.open()
    names = ["invoice\u202etxt.exe", "a\x1b[2Jb", "two\nlines", "  .. ", "\u200b", "../../etc/notes.md", None]
    logged = await desk.post(*[file(str(at).encode(), name) for at, name in enumerate(names)])
    assert [part.filename for part in logged] == [*[None] * 5, "notes.md", None]
    assert [part.stored.path for part in logged[:5]] == [
        f"/attachments/file-{part.stored.digest[:8]}.txt" for part in logged[:5]
    ]
    image = await upload_image(desk.app, desk.owner, png(), "fine.png", None)
    (own,) = await desk.post(ImageFilePart(image.id, filename="C:\\photos\\pear.png"))
    (hidden,) = await desk.post(ImageFilePart(image.id, filename="gnp\u202e.exe"))
    (plain,) = await desk.post(ImageFilePart(image.id))
    assert [own.filename, hidden.filename, plain.filename] == ["pear.png", None, "fine.png"]


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("notes.md", "notes.md"),
        ("C:\\files\\notes.md", "notes.md"),
        ("a/b/..", "instead"),
        ("_", "instead"),
        ("", "instead"),
        (None, "instead"),
        ("gru\u0308n.md", "grün.md"),
        ("half \ud800", "instead"),
        ("x" * 300 + ".md", "x" * (MAX_FILENAME - 3) + ".md"),
        ("ü" * 150 + ".md", "ü" * 98 + ".md"),
    ],
)
def test_a_name_without_folders_is_made_of_any_name(name: str | None, clean: str) -> None:
    assert safe_name(name, "instead") == clean


async def test_files_of_one_name_get_paths_of_their_own_until_all_are_taken(desk: Desk) -> None:
    await desk.open()

    def path(part: FilePart) -> str | None:
        return None if part.stored is None else part.stored.path

    first, same, other = await desk.post(file(b"1", "a.md"), file(b"1", "a.md"), file(b"2", "a.md"))
    short, long = other.stored.digest[:8], other.stored.digest[:16]
    assert [path(first), path(same), path(other)] == [
        "/attachments/a.md", "/attachments/a.md", f"/attachments/a-{short}.md",
    ]  # fmt: skip
    taken = [f"/attachments/b{end}.md" for end in ("", f"-{short}", f"-{long}")]
    for each in taken:
        await desk.put(each, CreateFile(content="mine"))
    (none,) = await desk.post(file(b"2", "b.md"))
    assert (none.filename, path(none), none.stored.digest) == ("b.md", None, other.stored.digest)
    (without_end,) = await desk.post(file(b"2", "README"))
    (again,) = await desk.post(file(b"3", "README"))
    assert path(without_end) == "/attachments/README"
    assert path(again) == f"/attachments/README-{again.stored.digest[:8]}"


async def test_a_file_in_the_place_of_the_folder_stays_and_messages_have_their_files(desk: Desk) -> None:
    await desk.open()
    await desk.put("/attachments", CreateFile(content="mine"))
    (part,) = await desk.post(file(b"pears", "a.md"))
    assert (part.stored.path, part.stored.size_bytes) == (None, 5)
    assert await desk.paths("/") == ["/attachments"]


async def test_an_archived_workspace_takes_no_files_and_messages_have_theirs(desk: Desk) -> None:
    await desk.open()
    space = await create_workspace(desk.app, desk.owner, CreateWorkspace("shared"))
    await desk.begin(workspace_id=WorkspaceId(space.id))
    await archive_workspace(desk.app, desk.owner, WorkspaceId(space.id))
    (part,) = await desk.post(file(b"pears", "a.md"))
    assert (part.filename, part.stored.path, part.stored.size_bytes) == ("a.md", None, 5)


async def test_a_file_of_a_users_memory_closes_the_session_to_others(desk: Desk) -> None:
    await desk.open()
    mount = {"name": "me", "scope": "user", "mode": "read_write"}
    capabilities = (CapabilityRef("memory", {"stores": [mount]}),)
    await desk.begin(capabilities=capabilities)
    await desk.put("/memories/me/likes.md", CreateFile(content="pears"))
    agent, *_ = await create_agent(desk.app, desk.owner, CreateAgent("reader", "Read."))
    await desk.begin(agent_id=agent.id)
    await change_agent(desk.app, desk.owner, agent.id, UpdateAgent(capabilities=capabilities))

    async def reader() -> str | None:
        return await desk.app.database.read(lambda tx: reader_of(tx, desk.session_id))

    await desk.post(file(b"hello"))
    assert await reader() is None
    (part,) = await desk.post(FilePart(path="/workspace/../memories/me/likes.md"))
    assert (part.filename, part.stored.path) == ("likes.md", "/memories/me/likes.md")
    assert await reader() == desk.owner.user_id


async def test_a_message_that_creates_its_session_has_no_files_by_path_or_url(desk: Desk) -> None:
    await desk.open()
    for part, name in ((FilePart(path="/a"), "path"), (FilePart(url="https://example.com/a"), "url")):
        problem = await desk.refused(part, first=True)
        assert isinstance(problem, InvalidInput)
        assert problem.field == f"message.content[0].{name}"
        assert "create the session first" in problem.message
    found = await receive(desk.app, desk.owner, None, (file(b"pears", "a.md"),))
    assert [each.filename for each in found.files] == ["a.md"]


async def test_a_folder_is_no_file_and_no_one_else_has_the_sessions_files(desk: Desk) -> None:
    await desk.open()
    await desk.put("/docs", CreateFile(is_directory=True))
    assert "/docs is a folder" in (await desk.refused(FilePart(path="docs/"))).message
    assert isinstance(await desk.refused(FilePart(path="/missing")), NotFound)
    assert "control characters" in (await desk.refused(FilePart(path="/a\u202eb"))).message


async def test_each_file_has_a_limit(desk: Desk, site: Site) -> None:
    await desk.open()
    await desk.put("/large", CreateFile(content="x" * LIMIT))
    small = replace(desk.app, file_limits=replace(desk.app.file_limits, file=LIMIT - 1))
    over = base64.b64encode(bytes(LIMIT + 1)).decode()
    site.answers["/large"] = web.Response(body=b"x" * (LIMIT + 1))
    for part in (FilePart(base64=over), FilePart(url=f"data:text/plain;base64,{over}")):
        assert isinstance(await desk.refused(part), TooLarge)
    assert isinstance(await desk.refused(FilePart(base64=over + "AAAA" * 9)), TooLarge)
    assert isinstance(await desk.refused(FilePart(url=site.url("/large"))), TooLarge)
    desk.app = small
    assert isinstance(await desk.refused(FilePart(path="/large")), TooLarge)


async def test_the_files_of_a_message_have_a_limit_together(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.open()
    assert MAX_BYTES == 50_000_000
    monkeypatch.setattr(attachments, "MAX_BYTES", 10)
    assert isinstance(await desk.refused(file(b"seven b"), file(b"four")), TooLarge)
    assert len(await desk.post(file(b"seven b"), file(b"3 b"))) == 2


async def test_a_message_has_a_limited_number_of_files(desk: Desk) -> None:
    await desk.open()
    assert "at most 20 files" in (await desk.refused(*[file()] * 21)).message
    assert len(await desk.post(*[file()] * 20)) == 20


async def test_a_data_url_has_its_type_and_base64(desk: Desk) -> None:
    await desk.open()
    picture = base64.b64encode(png()).decode()
    (part,) = await desk.post(ImagePart(url=f"DATA:image/png;base64,{picture}"))
    assert (part.media_type, part.url, part.stored.width) == ("image/png", None, 3)
    wrong = await desk.refused(FilePart(url=f"data:application/pdf;base64,{picture}"))
    assert "has the media type application/pdf, but its content is image/png" in wrong.message
    broken = await desk.refused(FilePart(url="data:text/plain;base64,a b"))
    assert "`message.content[0].url` is not base64" in broken.message


async def test_a_file_that_is_fetched_is_named_by_its_url_and_noted_as_from_outside(
    desk: Desk, site: Site
) -> None:
    await desk.open()
    for path in ("/a/b.md", "/"):
        site.answers[path] = web.Response(body=b"pears")
    site.answers["/gone"] = web.Response(status=404)
    named, bare = await desk.post(FilePart(url=site.url("/a/b.md?x=1")), FilePart(url=site.url("/")))
    assert (named.filename, named.stored.path) == ("b.md", "/attachments/b.md")
    assert (bare.filename, bare.stored.size_bytes) == (None, 5)
    found = await receive(desk.app, desk.owner, desk.session_id, (FilePart(url=site.url("/a/b.md")),))
    assert [each.source for each in found.external] == ["127.0.0.1"]
    assert "status 404" in (await desk.refused(FilePart(url=site.url("/gone")))).message
    public = replace(desk.app, private_addresses=False)
    desk.app = public
    assert "not a public host" in (await desk.refused(FilePart(url=site.url("/a/b.md")))).message


async def test_a_site_that_does_not_answer_ends_the_wait(
    desk: Desk, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.open()
    enough = asyncio.Event()

    async def silent(_: web.Request) -> web.Response:
        await enough.wait()
        return web.Response()

    site.answers["/silent"] = silent
    monkeypatch.setattr(attachments, "PATIENCE", 0.05)
    problem = await desk.refused(FilePart(url=site.url("/silent")))
    enough.set()
    assert isinstance(problem, Unavailable)
    assert "send fewer or smaller ones" in problem.message


async def test_an_image_that_ends_with_its_session_names_it(desk: Desk) -> None:
    await desk.open()
    kept = await upload_image(desk.app, desk.owner, png(9, 9), "../a\u202e.png", desk.session_id)
    (info,) = await list_images(desk.app, desk.owner, 0, 10)
    assert (info.id, info.filename) == (kept.id, "image.png")
    assert info.metadata == {
        "width": 9, "height": 9, "has_thumbnail": True, "session_id": desk.session_id,
    }  # fmt: skip
    digest, small = await read_thumbnail(desk.app, desk.owner, kept.id)
    assert (len(digest), small[:2]) == (64, b"\xff\xd8")


@pytest.mark.parametrize(("limit", "most"), [("MAX_IMAGES", 1), ("MAX_IMAGE_BYTES", len(png()))])
async def test_an_organization_has_a_limited_number_of_images(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, limit: str, most: int
) -> None:
    await desk.open()
    monkeypatch.setattr(images, limit, most)
    first = await upload_image(desk.app, desk.owner, png(), None, None)
    with pytest.raises(Conflict, match="has 1 images") as refused:
        await upload_image(desk.app, desk.owner, png(), None, None)
    assert refused.value.code == "too_many_images"
    await delete_image(desk.app, desk.owner, first.id)
    again = await upload_image(desk.app, desk.owner, png(), None, None)
    assert [each.id for each in await list_images(desk.app, desk.owner, 0, 10)] == [again.id]


async def test_an_image_of_which_no_thumbnail_was_made_says_so(desk: Desk) -> None:
    await desk.open()
    image = await upload_image(desk.app, desk.owner, png(), None, None)
    sql = "UPDATE images SET thumbnail = NULL, thumbnail_bytes = 0 WHERE id = ?"
    await desk.app.database.write(lambda tx: tx.run(sql, image.id))
    with pytest.raises(NotFound, match="no library to make one") as missing:
        await read_thumbnail(desk.app, desk.owner, image.id)
    assert missing.value.code == "thumbnail_not_found"
    (info,) = await list_images(desk.app, desk.owner, 0, 10)
    assert (info.filename, info.metadata["has_thumbnail"]) == ("image.png", False)
