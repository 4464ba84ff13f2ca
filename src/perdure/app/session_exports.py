"""Exports of sessions."""

from __future__ import annotations

import msgspec

from perdure.app.context import App
from perdure.app.messages import list_messages
from perdure.domain.accounts import Caller
from perdure.domain.ids import SessionId


async def export_session(app: App, caller: Caller, session_id: SessionId) -> bytes:
    """Export a session's messages as JSON lines, oldest first."""
    messages = await list_messages(app, caller, session_id)
    return b"".join(msgspec.json.encode(message) + b"\n" for message in messages)
