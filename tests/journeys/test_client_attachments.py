"""Files with messages through the Python client and the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.client import ApiError, Client, FilePart, ImageFilePart, NotFound, TextPart, attachment
from perdure.sandbox.media import size_of
from tests.command import PERDURE, Terminal, environment, perdure, use_simulated_model
from tests.media_files import pdf, png
from tests.server import Server


async def test_the_client_sends_files_and_keeps_images(shared_server: Server, tmp_path: Path) -> None:
    photo = tmp_path / "my photo.png"
    photo.write_bytes(png(40, 20))
    async with Client(shared_server.url) as client:
        session = await client.create_session()
        image = await client.upload_image(photo)
        assert image.filename == "my photo.png"
        assert await client.get_image(image.id) == png(40, 20)
        assert size_of(await client.get_thumbnail(image.id)) == (40, 20)
        assert image.id in [each.id for each in await client.list_images(limit=100)]
        await client.upload_file(session.id, "/book.pdf", pdf("Pears"))
        parts = [
            TextPart("look"),
            ImageFilePart(image.id),
            attachment(photo),
            attachment(b"a,b", "table.csv"),
            FilePart(path="/book.pdf"),
        ]
        message = await client.send_message(session.id, parts)
        stored = [part.stored for part in message.content if not isinstance(part, TextPart)]  # type: ignore[union-attr]
        assert [each.media_type for each in stored if each is not None] == [
            "image/png", "image/png", "text/csv", "application/pdf",
        ]  # fmt: skip
        await client.delete_image(image.id)
        with pytest.raises(NotFound):
            await client.get_image(image.id)
        with pytest.raises(ApiError, match="is none of these"):
            await client.upload_image(b"text", "x.png")


async def test_the_command_sends_files(server: Server, tmp_path: Path) -> None:
    notes = tmp_path / "notes.md"
    notes.write_text("plain pears")
    async with Client(server.url) as client:
        await use_simulated_model(client)
        done = await perdure("run", "read it", "--attach", f"{notes}", url=server.url)
        assert done.status == 0, done.err
        done = await perdure("chat", "--attach", f"{notes}", url=server.url, given="hi\n")
        assert done.status == 0, done.err
        sessions = (await client.list_sessions()).data
        assert len(sessions) == 2
        for session in sessions:
            first = (await client.list_messages(session.id))[0]
            (file,) = [part for part in first.content if isinstance(part, FilePart)]
            assert (file.filename, file.base64) == ("notes.md", None)
            assert await client.read_file(session.id, "/attachments/notes.md") == b"plain pears"
        done = await perdure("run", "read it", "--attach", f"{tmp_path / 'none'}", url=server.url)
        assert (done.status, "cannot read" in done.err) == (1, True)
        terminal = Terminal(*PERDURE, "chat", **environment(server.url))
        try:
            await terminal.see("> ")
            terminal.type(f"/attach {notes}\n")
            await terminal.see("goes with your next message: notes.md")
            terminal.type("/attach nothing\n")
            await terminal.see("cannot read nothing")
            terminal.type("/quit\n")
            assert await terminal.end() == 0
        finally:
            terminal.close()
