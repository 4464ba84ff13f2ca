"""`perdure approvals ...` and `perdure callbacks ...`: what a session waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli.common import DEFAULT_URL, Json, Org, Token, Url, connect, enter
from perdure.cli.sessions import SessionId
from perdure.cli.terminal import Screen

if TYPE_CHECKING:
    from perdure.client import Client
    from perdure.domain.decisions import Decision

approvals = typer.Typer(help="List and decide tool calls that wait for approval.", no_args_is_help=True)
callbacks = typer.Typer(help="List and cancel a session's open callbacks.", no_args_is_help=True)

CallIds = Annotated[list[str], typer.Argument(help="Ids of tool calls, from the list.", show_default=False)]


@approvals.command("list")
def list_approvals(
    session_id: SessionId, as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None, org: Org = None
) -> None:
    """List the tool calls that wait for approval, with exactly what would run."""
    enter(_list(connect(url, token, org), session_id, as_json))


async def _list(client: Client, session_id: str, as_json: bool) -> None:
    from perdure.cli.render import narrations
    from perdure.cli.texts import exact_value
    from perdure.domain.visible import exact

    async with client:
        waits = await client.pending(session_id)
    questions = () if waits is None else waits.approvals
    Screen().listing(
        questions,
        ("CALL", "TOOL", "ARGUMENTS"),
        lambda each: (exact(each.tool_call_id), exact(each.tool_name), exact_value(each.arguments, None)),
        as_json=as_json,
    )
    if waits is not None and not as_json:
        for why in narrations(waits.request):
            Screen(stderr=True).line(f"note: {exact(why)}")


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


@callbacks.command("list")
def list_callbacks(
    session_id: SessionId, as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None, org: Org = None
) -> None:
    """List a session's open callbacks, oldest first. Their URLs are not shown."""
    enter(_list_callbacks(connect(url, token, org), session_id, as_json))


async def _list_callbacks(client: Client, session_id: str, as_json: bool) -> None:
    async with client:
        found = await client.list_callbacks(session_id)
    Screen().listing(
        found,
        ("CALLBACK", "CALL", "TOOL", "UNTIL"),
        lambda each: (each.id, each.tool_call_id, each.tool_name, each.expires_at),
        as_json=as_json,
    )


@callbacks.command()
def cancel(
    session_id: SessionId,
    callback_id: Annotated[str, typer.Argument(help="The callback's id.", show_default=False)],
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Cancel a callback: its URL stops working, and the tool call that waits for it fails."""
    enter(_cancel_callback(connect(url, token, org), session_id, callback_id))


async def _cancel_callback(client: Client, session_id: str, callback_id: str) -> None:
    async with client:
        await client.cancel_callback(session_id, callback_id)
    Screen().line(f"cancelled {callback_id}")
