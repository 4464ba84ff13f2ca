"""`perdure sessions participants ...`: the agents and users of a session."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli.common import DEFAULT_URL, Json, Org, Token, Url, connect, enter
from perdure.cli.sessions import SessionId
from perdure.cli.terminal import Screen

if TYPE_CHECKING:
    from perdure.client import Client
    from perdure.domain.participants import SessionParticipant

app = typer.Typer(help="List, add and remove the agents and users of a session.", no_args_is_help=True)


@app.command("list")
def list_participants(
    session_id: SessionId, as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None, org: Org = None
) -> None:
    """List a session's participants, its hosts first."""
    enter(_list(connect(url, token, org), session_id, as_json))


async def _list(client: Client, session_id: str, as_json: bool) -> None:
    async with client:
        _print(await client.list_participants(session_id), as_json)


def _print(participants: Iterable[SessionParticipant], as_json: bool) -> None:
    columns = ("PARTICIPANT", "KIND", "ROLE", "NAME", "JOINED")
    Screen().listing(participants, columns, _row, as_json=as_json)


def _row(participant: SessionParticipant) -> tuple[str, ...]:
    name = participant.name or participant.agent_id or participant.principal_id
    return participant.id, participant.kind, participant.role, name, participant.joined_at


@app.command()
def add(
    session_id: SessionId,
    agent: Annotated[
        str | None, typer.Argument(help="The agent's id or name.", show_default="you join yourself")
    ] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Add an agent to a session, so that messages can begin with @ and its name; or yourself."""
    enter(_add(connect(url, token, org), session_id, agent, as_json))


async def _add(client: Client, session_id: str, agent: str | None, as_json: bool) -> None:
    async with client:
        if agent is None:
            joined = await client.add_participant(session_id, "user")
        else:
            agent_id = (await client.get_agent(agent)).id
            joined = await client.add_participant(session_id, "agent", agent_id=agent_id)
    _print((joined,), as_json)


@app.command()
def leave(
    session_id: SessionId,
    participant_id: Annotated[str, typer.Argument(help="The participant's id.", show_default=False)],
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Remove a participant from a session. It can be added again."""
    enter(_leave(connect(url, token, org), session_id, participant_id))


async def _leave(client: Client, session_id: str, participant_id: str) -> None:
    async with client:
        await client.remove_participant(session_id, participant_id)
    Screen().line(f"removed {participant_id}")
