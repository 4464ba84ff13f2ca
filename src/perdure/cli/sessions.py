"""`perdure sessions ...`: view, follow and change sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perdure.cli.common import DEFAULT_URL, Json, Org, Token, Url, Yes, confirm, connect, enter, pairs_of
from perdure.cli.terminal import Screen

if TYPE_CHECKING:
    from perdure.client import Client, WireEvent
    from perdure.domain.sessions import Session

app = typer.Typer(help="View, follow and change sessions.", no_args_is_help=True)

SessionId = Annotated[str, typer.Argument(help="The session's id.", show_default=False)]


@app.command("list")
def list_sessions(
    limit: Annotated[
        int, typer.Option(help="How many sessions to list, newest first.", min=1, max=10_000)
    ] = 20,
    search: Annotated[str | None, typer.Option(help="Part of the title.", show_default=False)] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(help="A tag; repeat the option to require several.", show_default=False),
    ] = None,
    status: Annotated[
        str | None,
        typer.Option(help="started, active, idle ...; several with commas.", show_default=False),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="chat, api ...; several with commas.", show_default=False)
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(help="NAME=TEXT; repeat the option to require several.", show_default=False),
    ] = None,
    mine: Annotated[bool, typer.Option("--mine", help="Only your own sessions.")] = False,
    feedback: Annotated[
        str | None,
        typer.Option(help="up or down: only sessions with a message rated so.", show_default=False),
    ] = None,
    all_sessions: Annotated[bool, typer.Option("--all", help="Archived sessions as well.")] = False,
    archived: Annotated[bool, typer.Option("--archived", help="Archived sessions only.")] = False,
    by_activity: Annotated[
        bool, typer.Option("--by-activity", help="The last changed first, instead of the newest.")
    ] = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """List sessions, newest first."""
    filters = {
        "search": search,
        "tags": tag or (),
        "status": status or (),
        "source": source or (),
        "metadata": pairs_of(metadata, "--metadata"),
        "mine": mine or None,
        "feedback": feedback,
        "include_archived": all_sessions or None,
        "archived_only": archived or None,
        "order": "last_activity" if by_activity else None,
    }
    enter(_list(connect(url, token, org), limit, filters, as_json))


async def _list(client: Client, limit: int, filters: dict[str, Any], as_json: bool) -> None:
    async with client:
        sessions: list[Session] = []
        async with aclosing(client.iterate_sessions(**filters, limit=min(limit, 100))) as pages:
            async for session in pages:
                sessions.append(session)
                if len(sessions) == limit:
                    break
    if as_json:
        for session in sessions:
            Screen().json(session)
    else:
        _print_table(sessions)


def _print_table(sessions: list[Session]) -> None:
    from perdure.cli.texts import short

    screen = Screen()
    if not sessions:
        screen.line("No sessions.")
        return
    wide = not screen.is_terminal
    rows = (
        (
            session.id,
            (_status(session, wide=wide), _STATUS_STYLES.get(session.status, "")),
            session.updated_at if wide else ago(session.updated_at),
            _name(session) if wide else short(_name(session), 60),
            ", ".join(session.tags) if wide else short(", ".join(session.tags), 60),
            *([session.held_at or ""] if wide else ()),
        )
        for session in sessions
    )
    screen.table(("SESSION", "STATUS", "UPDATED", "TITLE", "TAGS", *(["HELD"] if wide else ())), rows)


def _status(session: Session, *, wide: bool) -> str:
    """Return the status; on a terminal also whether the session is under legal hold."""
    return session.status if wide or not session.held_at else f"{session.status}, held"


def _name(session: Session) -> str:
    return session.title or session.preview or ""


@app.command()
def show(
    session_id: SessionId,
    messages: Annotated[
        int, typer.Option("--messages", "-m", help="How many of the last messages to show.", min=0, max=500)
    ] = 6,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Show a session and its last messages."""
    enter(_show(connect(url, token, org), session_id, messages, as_json))


async def _show(client: Client, session_id: str, count: int, as_json: bool) -> None:
    async with client:
        session = await client.get_session(session_id)
        if as_json:
            Screen().json(session)
            return
        events = await last_messages(client, session_id, count)
        waiting = await waiting_calls(client, session)
    print_session(session)
    print_messages(events)
    for call in waiting:
        Screen().line((f"{'':>5}  {call}", "yellow"))


async def waiting_calls(client: Client, session: Session) -> list[str]:
    """Format the calls that wait for this session's client: for approval, or to be run."""
    from perdure.cli.render import brief

    if not any(call.kind in ("client", "approval") for call in session.parked_on):
        return []
    kind = ("tool.call_requested",)
    requests = await client.list_events(session.id, types=kind, newest_first=True, limit=1)
    return [f"waits: {brief(request)}" for request in requests]


async def last_messages(client: Client, session_id: str, count: int) -> list[WireEvent]:
    """Return the events of the session's last messages, oldest first."""
    if not count:
        return []
    kinds = ("input.message", "output.message.completed")
    return list(reversed(await client.list_events(session_id, types=kinds, newest_first=True, limit=count)))


def print_session(session: Session) -> None:
    """Print the session, one field per line."""
    from perdure.domain.visible import visible_line

    screen = Screen()
    usage = session.usage
    rows = {
        "session": session.id,
        "title": session.title,
        "tags": ", ".join(session.tags),
        "status": session.status,
        "waits for": "; ".join(
            f"{parked.tool_name or 'the model'} ({parked.budget_id or parked.kind}) until {parked.until}"
            for parked in session.parked_on
        ),
        "legal hold": session.held_at
        and f"since {session.held_at}; `perdure erase hold --release {session.id}` ends it",
        "archived": session.archived_at and f"{session.archived_at} ({ago(session.archived_at)})",
        "metadata": ", ".join(f"{name}={text}" for name, text in session.metadata.items()),
        "parent": session.parent_session_id,
        "task": session.task_id,
        "agent": session.agent_id,
        "model": session.model_id,
        "capabilities": ", ".join(capability.ref for capability in session.capabilities),
        "tokens": None if usage is None else f"{usage.input_tokens} in, {usage.output_tokens} out",
        "created": f"{session.created_at} ({ago(session.created_at)})",
        "updated": f"{session.updated_at} ({ago(session.updated_at)})",
    }
    for name, value in rows.items():
        if value:
            style = _STATUS_STYLES.get(session.status, "") if name == "status" else ""
            screen.line((f"{name:<13}", "dim"), (visible_line(value), style))


def print_messages(events: Iterable[WireEvent]) -> None:
    """Print messages, one line each."""
    from perdure.cli.render import outcome
    from perdure.client import data_of

    screen = Screen()
    for event in events:
        message = data_of(event).message
        screen.line((f"{message.role:>5}  ", "bold" if message.role == "user" else "dim"), outcome(message))


@app.command()
def tree(
    session_id: SessionId,
    watches: Annotated[bool, typer.Option("--watch", "-w", help="Follow it until all have ended.")] = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Draw a session with all below it: the sub-agents that it has begun, and theirs."""
    from perdure.cli.session_trees import show_tree

    enter(show_tree(connect(url, token, org), session_id, watches=watches, as_json=as_json))


@app.command()
def tail(
    session_id: SessionId,
    since: Annotated[
        str | None, typer.Option(help="Start after the event with this id.", show_default=False)
    ] = None,
    last: Annotated[
        int, typer.Option("--last", "-n", help="First show this many of the last events.", min=0, max=1000)
    ] = 10,
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--types",
            help="Only events of these types; repeat the option or use commas.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Follow a session's events as they happen, until Ctrl-C.

    Live events (output.message.delta ...) are shown only if --types names them.
    """
    kinds = [kind for group in types or () for kind in group.split(",") if kind]
    client = connect(url, token, org)
    try:
        enter(_tail(client, session_id, since, last, kinds, as_json))
    except typer.Exit:
        return  # Ctrl-C is how a tail ends


async def _tail(
    client: Client, session_id: str, since: str | None, last: int, types: list[str], as_json: bool
) -> None:
    from perdure.domain.events import LIVE_TYPES

    exclude = () if types else tuple(sorted(LIVE_TYPES))
    async with client:
        if since is None:
            since = await _event_before_last(client, session_id, last)
        print_event = Screen().json if as_json else _event_printer()
        async with aclosing(client.follow(session_id, since, types, exclude)) as events:
            async for event in events:
                print_event(event)


async def _event_before_last(client: Client, session_id: str, last: int) -> str | None:
    """Return the id of the event before the `last` newest ones; None if the log has no such event."""
    newest = await client.list_events(session_id, newest_first=True, limit=1)
    if not newest or newest[0].sequence is None or newest[0].sequence <= last:
        return None
    before = await client.list_events(
        session_id, before_sequence=newest[0].sequence - last + 1, newest_first=True, limit=1
    )
    return before[0].id


def _event_printer() -> Callable[[WireEvent], None]:
    from perdure.cli.render import brief
    from perdure.domain.visible import visible_line

    screen = Screen()

    def print_event(event: WireEvent) -> None:
        style = next((style for end, style in _EVENT_STYLES if event.type.endswith(end)), "")
        when = event.ts[11:23]
        screen.line(
            (f"{when} {event.sequence or '':>6} ", "dim"),
            (f"{event.type:<26} ", style),
            visible_line(brief(event)),
        )

    return print_event


@app.command()
def update(
    session_id: SessionId,
    title: Annotated[str | None, typer.Option(help="The new title.", show_default=False)] = None,
    clear_title: Annotated[bool, typer.Option("--clear-title", help="Remove the title.")] = False,
    tag: Annotated[
        list[str] | None,
        typer.Option(help="A tag; repeat the option for several. Replaces all tags.", show_default=False),
    ] = None,
    clear_tags: Annotated[bool, typer.Option("--clear-tags", help="Remove all tags.")] = False,
    model: Annotated[
        str | None,
        typer.Option(help="The id of the model to use instead of the agent's.", show_default=False),
    ] = None,
    clear_model: Annotated[bool, typer.Option("--clear-model", help="Use the agent's model again.")] = False,
    metadata: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=TEXT; repeat the option for several. An empty TEXT removes the name.",
            show_default=False,
        ),
    ] = None,
    clear_metadata: Annotated[bool, typer.Option("--clear-metadata", help="Remove all metadata.")] = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Change a session's title, tags, model or metadata, even while a turn runs."""
    changes: dict[str, Any] = {}
    for name, value, clear, cleared in (
        ("title", title, clear_title, None),
        ("tags", tuple(tag) if tag else None, clear_tags, ()),
        ("model_id", model, clear_model, None),
        (
            "metadata",
            {name: text or None for name, text in pairs_of(metadata, "--metadata").items()} or None,
            clear_metadata,
            None,
        ),
    ):
        if clear and value is not None:
            raise typer.BadParameter(
                "pass a value or clear it, not both", param_hint=f"--{name.removesuffix('_id')}"
            )
        if clear or value is not None:
            changes[name] = cleared if clear else value
    if not changes:
        raise typer.BadParameter(
            "nothing to change: pass --title, --tag, --model, --metadata or one of --clear-..."
        )
    enter(_update(connect(url, token, org), session_id, changes, as_json))


async def _update(client: Client, session_id: str, changes: dict[str, Any], as_json: bool) -> None:
    async with client:
        session = await client.update_session(session_id, **changes)
    if as_json:
        Screen().json(session)
    else:
        print_session(session)


SessionIds = Annotated[list[str], typer.Argument(help="One or more ids.", show_default=False)]


@app.command()
def archive(session_ids: SessionIds, url: Url = DEFAULT_URL, token: Token = None, org: Org = None) -> None:
    """Archive sessions: lists leave them out until a message brings them back."""
    enter(_archive(connect(url, token, org), session_ids, archived=True))


@app.command()
def unarchive(session_ids: SessionIds, url: Url = DEFAULT_URL, token: Token = None, org: Org = None) -> None:
    """Bring sessions back from the archive."""
    enter(_archive(connect(url, token, org), session_ids, archived=False))


async def _archive(client: Client, session_ids: list[str], *, archived: bool) -> None:
    async with client:
        for session_id in session_ids:
            if archived:
                await client.archive_session(session_id)
            else:
                await client.unarchive_session(session_id)
            Screen().line(f"{'archived' if archived else 'unarchived'} {session_id}")


@app.command()
def cancel(session_id: SessionId, url: Url = DEFAULT_URL, token: Token = None, org: Org = None) -> None:
    """Cancel a session's running turn."""
    enter(_cancel(connect(url, token, org), session_id))


async def _cancel(client: Client, session_id: str) -> None:
    async with client:
        cancelled = await client.cancel(session_id)
    Screen().line(cancelled.message)


@app.command()
def delete(
    session_ids: SessionIds,
    yes: Yes = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Delete sessions permanently, after cancelling their running turns.

    Asks for confirmation on a terminal; without one, pass --yes.
    """
    if not yes:
        confirm(f"Delete {len(session_ids)} session(s) and all their events?")
    enter(_delete(connect(url, token, org), session_ids))


async def _delete(client: Client, session_ids: list[str]) -> None:
    async with client:
        for session_id in session_ids:
            await client.delete_session(session_id)
            Screen().line(f"deleted {session_id}")


@app.command()
def fork(
    session_id: SessionId,
    title: Annotated[str | None, typer.Option(help="The fork's title.", show_default=False)] = None,
    at: Annotated[
        int | None,
        typer.Option(help="Copy the log up to this sequence number.", min=1, show_default="all of it"),
    ] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Copy a session, to continue it in another way."""
    enter(_fork(connect(url, token, org), session_id, title, at, as_json))


async def _fork(client: Client, session_id: str, title: str | None, at: int | None, as_json: bool) -> None:
    async with client:
        made = await client.fork_session(session_id, at, title)
    if as_json:
        Screen().json(made)
    else:
        print_session(made)


@app.command()
def export(session_id: SessionId, url: Url = DEFAULT_URL, token: Token = None, org: Org = None) -> None:
    """Print a session's messages, one JSON object per line."""
    enter(_export(connect(url, token, org), session_id))


async def _export(client: Client, session_id: str) -> None:
    async with client:
        for message in await client.export_session(session_id):
            Screen().json(message)


def ago(ts: str) -> str:
    """Format how long ago an RFC 3339 time was, for people."""
    seconds = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(ts)).total_seconds())
    for size, name in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"


_STATUS_STYLES = {
    "active": "green",
    "waiting_for_tool_results": "yellow",
    "paused": "yellow",
    "idle": "",
    "started": "dim",
}
_EVENT_STYLES = (
    (".failed", "red"),
    (".cancelled", "yellow"),
    (".sealed", "red"),
    (".completed", "green"),
    (".message", "bold"),
)
