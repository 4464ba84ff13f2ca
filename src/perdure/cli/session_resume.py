"""`perdure sessions resume`: make a session go on that a budget has stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.cli.common import DEFAULT_URL, CommandFailed, Json, Org, Token, Url, connect, enter
from perdure.cli.sessions import SessionId
from perdure.cli.terminal import Screen

if TYPE_CHECKING:
    from perdure.client import Client


def resume(
    session_id: SessionId, as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None, org: Org = None
) -> None:
    """Make a session go on that a budget has stopped. The status is 1 if there is no money yet."""
    enter(_resume(connect(url, token, org), session_id, as_json))


async def _resume(client: Client, session_id: str, as_json: bool) -> None:
    async with client:
        result = await client.resume_session(session_id)
    if as_json:
        Screen().json(result)
    elif result.resumed:
        Screen().line(f"resumed {session_id}")
    if not result.resumed:
        raise CommandFailed(result.message or "the session was not resumed")
