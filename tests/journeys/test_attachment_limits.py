"""What the messages of a session, and the images of an organization, may have together."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.app import images
from perdure.app.accounts import bootstrap
from perdure.app.context import App
from perdure.app.file_access import OfSession
from perdure.app.files import delete_path
from perdure.app.forks import fork_session
from perdure.app.images import list_images, upload_image
from perdure.app.messages import post_message
from perdure.app.sessions import create_session
from perdure.domain.accounts import Caller
from perdure.domain.errors import Conflict, TooLarge
from perdure.domain.ids import SessionId
from perdure.domain.images import ImageUploadResponse
from perdure.domain.messages import CreateMessage, FilePart, InputMessage
from perdure.domain.sessions import CreateSession, ForkSession
from perdure.settings import Settings
from perdure.wiring import open_parts
from tests.media_files import png


@pytest.fixture
async def app(tmp_path: Path, database_url: str) -> AsyncIterator[App]:
    settings = Settings(data=str(tmp_path), database_url=database_url, max_session_file_bytes=3_000)
    async with open_parts(settings) as parts:
        yield parts.app


async def send(app: App, caller: Caller, session_id: SessionId, letter: str) -> str | None:
    """Send a file of 1,000 bytes, and delete it from the session's files."""
    data = base64.b64encode(letter.encode() * 1_000).decode()
    body = CreateMessage(InputMessage((FilePart(base64=data, filename="a.txt"),)))
    (part,) = (await post_message(app, caller, session_id, body)).content
    assert isinstance(part, FilePart)
    assert part.stored is not None
    assert part.stored.path is not None
    await delete_path(app, caller, OfSession(session_id), part.stored.path, recursive=False, if_match=None)
    return part.stored.path


async def test_what_a_conversation_keeps_has_a_limit_even_if_its_files_are_deleted(app: App) -> None:
    caller = await bootstrap(app)
    first, second = [(await create_session(app, caller, CreateSession())).id for _ in range(2)]
    for letter in "abcb":  # what it has already counts once
        await send(app, caller, first, letter)
    with pytest.raises(TooLarge, match=r"may have 3000 bytes together, .* would have 4000 bytes") as full:
        await send(app, caller, first, "d")
    assert full.value.code == "attachments_full"
    await send(app, caller, first, "a")
    await send(app, caller, second, "d")
    copy = await fork_session(app, caller, first, ForkSession())
    with pytest.raises(TooLarge):
        await send(app, caller, copy.id, "d")
    found = await asyncio.gather(
        *(send(app, caller, second, each) for each in "efgh"), return_exceptions=True
    )
    assert sum(isinstance(each, TooLarge) for each in found) == 2


async def test_uploads_at_once_do_not_exceed_the_limit_of_images(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = await bootstrap(app)
    monkeypatch.setattr(images, "MAX_IMAGES", 2)
    uploads = (upload_image(app, caller, png(3 + each), None, None) for each in range(6))
    found = await asyncio.gather(*uploads, return_exceptions=True)
    assert sum(isinstance(each, ImageUploadResponse) for each in found) == 2
    assert sum(isinstance(each, Conflict) for each in found) == 4
    assert len(await list_images(app, caller, 0, 10)) == 2
