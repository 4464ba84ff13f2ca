"""Exports of sessions."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec

from perdure.app.context import App
from perdure.app.messages import list_messages
from perdure.domain.accounts import Caller
from perdure.domain.ids import SessionId


async def export_session(app: App, caller: Caller, session_id: SessionId) -> AsyncIterator[bytes]:
    """Export a session's messages as JSON lines, oldest first, a few at a time. Raises NotFound."""
    encoder = msgspec.json.Encoder()
    async for messages in list_messages(app, caller, session_id):
        yield encoder.encode_lines(messages)
