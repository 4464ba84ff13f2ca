"""`perdure approvals ...`: answer what a session waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli.common import DEFAULT_URL, Json, Org, Token, Url, connect, enter
from perdure.cli.sessions import SessionId
from perdure.cli.terminal import Screen

if TYPE_CHECKING:
    from perdure.client import Client
    from perdure.domain.tools import Decision

approvals = typer.Typer(help="List and decide tool calls that wait for approval.", no_args_is_help=True)

CallIds = Annotated[list[str], typer.Argument(help="Ids of tool calls, from the list.", show_default=False)]


@approvals.command("list")
def list_approvals(
    session_id: SessionId, as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None, org: Org = None
) -> None:
    """List the tool calls that wait for approval, with exactly what would run."""
    enter(_list(connect(url, token, org), session_id, as_json))


async def _list(client: Client, session_id: str, as_json: bool) -> None:
    from perdure.cli.render import exact_value
    from perdure.domain.visible import exact

    async with client:
        waits = await client.pending(session_id)
    questions = () if waits is None else waits.approvals
    if as_json:
        for question in questions:
            Screen().json(question)
        return
    rows = (
        (exact(each.tool_call_id), exact(each.tool_name), exact_value(each.arguments, None))
        for each in questions
    )
    Screen().table(("CALL", "TOOL", "ARGUMENTS"), rows)


@approvals.command()
def allow(
    session_id: SessionId,
    call_ids: CallIds,
    always: Annotated[
        bool, typer.Option("--always", help="Also all later calls of these tools in the session.")
    ] = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Let tool calls run."""
    enter(_decide(connect(url, token, org), session_id, call_ids, "allow_always" if always else "allow"))


@approvals.command()
def reject(
    session_id: SessionId,
    call_ids: CallIds,
    always: Annotated[
        bool, typer.Option("--always", help="Also all later calls of these tools in the session.")
    ] = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Reject tool calls. The model learns of it."""
    enter(_decide(connect(url, token, org), session_id, call_ids, "reject_always" if always else "reject"))


async def _decide(client: Client, session_id: str, call_ids: list[str], decision: Decision) -> None:
    from perdure.client import ApprovalDecision

    async with client:
        done = await client.submit_tool_approvals(
            session_id, [ApprovalDecision(each, decision) for each in call_ids]
        )
    Screen().line(f"decided {done.accepted} of {len(call_ids)}; the session is now {done.status}")
