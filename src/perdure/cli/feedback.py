"""`perdure feedback ...`: rate an agent's messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from perdure.cli.common import DEFAULT_URL, CommandFailed, Json, Org, Token, Url, connect, enter
from perdure.cli.sessions import SessionId
from perdure.cli.terminal import Screen

if TYPE_CHECKING:
    from perdure.client import Client
    from perdure.domain.feedback import MessageFeedback, Rating

app = typer.Typer(help="Rate an agent's messages, and list the ratings.", no_args_is_help=True)

MessageId = Annotated[
    str | None, typer.Argument(help="The message's id.", show_default="the agent's last message")
]


@app.command("list")
def list_feedback(
    session_id: SessionId,
    rating: Annotated[str | None, typer.Option(help="up or down.", show_default=False)] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """List the feedback on a session's messages, newest first."""
    given = None if rating is None else _rating(rating, "--rating")
    enter(_list(connect(url, token, org), session_id, given, as_json))


def _rating(text: str, where: str) -> Rating:
    from perdure.domain.feedback import Rating

    if text not in get_args(Rating):
        raise typer.BadParameter(f"{text!r} is neither up nor down", param_hint=where)
    return cast("Rating", text)


async def _list(client: Client, session_id: str, rating: Rating | None, as_json: bool) -> None:
    found: list[MessageFeedback] = []
    async with client:
        while True:
            page = await client.list_feedback(session_id, rating=rating, offset=len(found), limit=100)
            found += page.data
            if not page.data or len(found) >= page.total:
                break
    _print(found, as_json)


def _print(feedback: Iterable[MessageFeedback], as_json: bool) -> None:
    columns = ("MESSAGE", "RATING", "USER", "UPDATED", "COMMENT")
    Screen().listing(feedback, columns, _row, as_json=as_json)


def _row(feedback: MessageFeedback) -> tuple[str, ...]:
    return (
        feedback.message_id,
        feedback.rating or "",
        feedback.user_id,
        feedback.updated_at,
        feedback.comment or "",
    )


@app.command("set")
def set_feedback(
    session_id: SessionId,
    rating: Annotated[str, typer.Argument(help="up or down.", show_default=False)],
    message_id: MessageId = None,
    comment: Annotated[
        str | None, typer.Option(help="What you say about the message.", show_default=False)
    ] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Rate a message up or down. This replaces your earlier feedback on it."""
    given = _rating(rating, "RATING")
    enter(_set(connect(url, token, org), session_id, message_id, given, comment, as_json))


async def _set(
    client: Client,
    session_id: str,
    message_id: str | None,
    rating: Rating,
    comment: str | None,
    as_json: bool,
) -> None:
    async with client:
        message_id = message_id or await _last_message(client, session_id)
        given = await client.set_feedback(session_id, message_id, rating=rating, comment=comment)
    _print((given,), as_json)


@app.command()
def clear(
    session_id: SessionId,
    message_id: MessageId = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Remove your feedback on a message."""
    enter(_clear(connect(url, token, org), session_id, message_id))


async def _clear(client: Client, session_id: str, message_id: str | None) -> None:
    async with client:
        message_id = message_id or await _last_message(client, session_id)
        await client.set_feedback(session_id, message_id)
    Screen().line(f"cleared {message_id}")


async def _last_message(client: Client, session_id: str) -> str:
    """Return the id of the agent's last message. Raises CommandFailed if there is none."""
    from perdure.client import data_of

    kinds = ("output.message.completed",)
    for event in await client.list_events(session_id, types=kinds, newest_first=True, limit=1):
        return str(data_of(event).message.id)
    raise CommandFailed("the agent has not written a message in this session yet")
