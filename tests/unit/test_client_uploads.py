"""What the client says of an upload whose connection the server ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from perdure.client import Client, Unreachable
from perdure.client.transport import UNREAD


@pytest.mark.parametrize(("size", "says"), [(UNREAD + 1, "PERDURE_MAX_UPLOAD_BYTES"), (9, "no answer from")])
async def test_an_upload_that_is_cut_may_have_been_too_large(tmp_path: Path, size: int, says: str) -> None:
    source = tmp_path / "large"
    with source.open("wb") as file:
        file.truncate(size)

    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    server = await asyncio.start_server(close, "127.0.0.1", 0)
    async with server, Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", retries=0) as client:
        with pytest.raises(Unreachable, match=says) as caught:
            await client.upload_file(f"session_{'0' * 32}", "/large", source)
        assert caught.value.code == ("upload_cut" if size > UNREAD else "unreachable")
