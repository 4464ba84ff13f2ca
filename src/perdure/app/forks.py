"""Forks: independent copies of sessions."""

from __future__ import annotations

import asyncio
from functools import partial

import msgspec

from perdure.app.agent_policies import check_fork_kept
from perdure.app.confidential import keep_openness
from perdure.app.context import App
from perdure.app.feedback import fork_feedback
from perdure.app.file_copies import Ahead, copy_ahead, give_copy
from perdure.app.idempotency import Once, write_once
from perdure.app.participants import fork_participants
from perdure.app.running_turns import cancel_events
from perdure.app.session_room import check_room_for_session
from perdure.app.sessions import check_model, check_startable, to_session
from perdure.app.variables import with_fork_values
from perdure.capabilities.features import SessionFeatures
from perdure.capabilities.layers import read_layers
from perdure.capabilities.resolve import resolve
from perdure.domain.accounts import Caller
from perdure.domain.data_flow import UNKNOWN, External, with_sources
from perdure.domain.errors import InvalidInput, Unavailable
from perdure.domain.events import Event, NewEvent
from perdure.domain.ids import SessionId, check_id
from perdure.domain.projection import Projection, project
from perdure.domain.sessions import (
    ForkSession,
    Session,
    clean_tags,
    clean_title,
    title_of_fork,
)
from perdure.domain.speakers import AgentAt
from perdure.domain.times import Micros
from perdure.store.agents import get_agent
from perdure.store.content_holds import copy_holds
from perdure.store.database import Tx
from perdure.store.databases import copy_databases
from perdure.store.events import copy_events, events_within
from perdure.store.forks import add_hidden, show
from perdure.store.gone_files import copies_ahead
from perdure.store.idempotency import kept_answer
from perdure.store.rows import to_json
from perdure.store.sessions import IN_TURN, SessionRow, add_session, append, get_session
from perdure.store.shell_states import copy_shell_state
from perdure.store.storage import copy_storage
from perdure.store.tool_lists import copy_tool_lists
from perdure.store.workspaces import get_workspace

MAX_FORK = 100_000
"""The most events that a fork copies."""
PART, PART_EVENTS = 1024 * 1024, 2_000
"""Bytes and events that are read at a time. A log of up to this size is copied in one transaction."""
SECONDS = 300.0
"""The time limit for copying a long log."""


async def fork_session(
    app: App, caller: Caller, session_id: SessionId, body: ForkSession, once: Once | None = None
) -> Session:
    """Create an independent, idle copy of a session up to a sequence of its log.

    A turn that is incomplete at that sequence is cancelled in the copy; the original continues.

    Raises:
        NotFound: the session, or the agent or model of the copy does not exist.
        InvalidInput: the sequence is not in the log, or the copy's agent cannot be used.
        Forbidden: the copy's agent has looser policies, and the caller may not loosen the session's.
    """
    now = app.now()
    session = app.new_id("session")

    async def plan(tx: Tx) -> tuple[SessionRow, int, Projection, bool, bool]:
        source = await get_session(tx, caller.organization_id, session_id)
        through = _last_sequence(source, body)
        if await _is_repeated(tx, once):
            return source, through, Projection(), False, False
        space = await get_workspace(tx, source.org_id, source.workspace())
        large = copies_ahead(tx.dialect, space.file_count)
        return source, through, *await _project_part(tx, source, Projection(), through), large

    source, through, begun, long, large = await app.database.read(plan, long=True)
    if not long and not large:
        return await write_once(
            app, once, lambda tx: _copy_at_once(app, tx, caller, session_id, session, body, begun, now)
        )
    async with app.shares.turn(caller.organization_id):
        return await _copy_in_parts(app, caller, source, session, body, begun, through, now, once, long=long)


def _last_sequence(source: SessionRow, body: ForkSession) -> int:
    """Return the sequence of the last event to copy. Raises InvalidInput."""
    through = source.head if body.from_sequence is None else body.from_sequence
    if not 1 <= through <= source.head:
        raise InvalidInput(f"`from_sequence` must be between 1 and {source.head}", field="from_sequence")
    if through > MAX_FORK:
        raise InvalidInput(
            f"a fork copies at most {MAX_FORK} events", code="fork_too_long", field="from_sequence"
        )
    return through


async def _is_repeated(tx: Tx, once: Once | None) -> bool:
    """Whether the request has been answered before: then nothing is copied."""
    return once is not None and await kept_answer(tx, once.org_id, once.key) is not None


async def _copy_at_once(
    app: App,
    tx: Tx,
    caller: Caller,
    session_id: SessionId,
    copy: SessionId,
    body: ForkSession,
    begun: Projection,
    now: Micros,
) -> Session:
    source = await get_session(tx, caller.organization_id, session_id)
    through = _last_sequence(source, body)
    projection = await _completed(tx, source, begun, through)
    row = await _copied_row(tx, caller, source, copy, body, projection, through, now)
    await check_fork_kept(app, tx, caller, source, row)
    await check_room_for_session(app, tx, row.org_id, row.owner_id)
    await add_session(tx, row)
    done = 0
    while done < through:
        done = await _copied(tx, source, row, done, through)
    return await _complete(app, tx, source, row, body, now)


async def _copy_in_parts(
    app: App,
    caller: Caller,
    source: SessionRow,
    copy: SessionId,
    body: ForkSession,
    begun: Projection,
    through: int,
    now: Micros,
    once: Once | None,
    *,
    long: bool,
) -> Session:
    """Copy a long log, and many files, part by part, so that other writers have their turn in between."""
    limit = asyncio.timeout(SECONDS)
    try:
        async with limit:
            projection, more = begun, long
            while more:
                projection, more = await app.database.read(
                    partial(_project_part, source=source, before=projection, through=through), long=True
                )

            async def begin(tx: Tx) -> SessionRow:
                row = await _copied_row(tx, caller, source, copy, body, projection, through, now)
                await check_fork_kept(app, tx, caller, source, row)
                await add_hidden(tx, row, app.now())
                return row

            row = await app.database.write(begin)
            done = 0
            while done < through:
                done = await app.database.write(
                    partial(_copied, source=source, row=row, done=done, through=through)
                )
            ahead = await copy_ahead(app, source.org_id, source.workspace(), row.workspace())
    except TimeoutError:
        if limit.expired():
            raise Unavailable("the fork took too long: use a smaller `from_sequence`") from None
        raise

    async def end(tx: Tx) -> Session:
        current = await get_session(tx, source.org_id, source.id)
        await check_room_for_session(app, tx, row.org_id, row.owner_id)
        await show(tx, row)
        return await _complete(app, tx, current, row, body, now, ahead)

    return await write_once(app, once, end)


async def _copied(tx: Tx, source: SessionRow, row: SessionRow, done: int, through: int) -> int:
    """Copy a part of the log; return the sequence up to which it is copied."""
    copied = await copy_events(tx, source.id, row.id, done, through, PART)
    return through if copied == done else copied  # there is no more of a log that was removed meanwhile


async def _complete(
    app: App,
    tx: Tx,
    source: SessionRow,
    row: SessionRow,
    body: ForkSession,
    now: Micros,
    ahead: Ahead | None = None,
) -> Session:
    """Copy all but the log to a session that has the log already, and perhaps the files."""
    if body.agent_id is not None:
        # Another agent's tools may have the same names as the session's: fail now, not in the first turn.
        resolve(await read_layers(tx, row), app.registry)
    await give_copy(tx, source.org_id, source.workspace(), row.workspace(), ahead, now)
    await fork_feedback(tx, source, row, row.forked_from_sequence or row.head)
    await copy_databases(tx, source.id, row.id)
    await fork_participants(app, tx, source, row, now)
    await copy_shell_state(tx, source.id, row.id)
    await copy_tool_lists(tx, source.id, row.id)
    await copy_holds(tx, source.org_id, source.id, row.id)
    await keep_openness(tx, source, row, now)
    await copy_storage(tx, app.vault, source.org_id, source.id, row.id, now)
    if row.status in IN_TURN:
        reason = "the session was forked in the middle of this turn"
        notice = "[This session is a copy that was made in the middle of this turn, which ends here.]"
        turn_id = row.turn_id or app.new_id("turn")
        row, _ = await append(tx, row, cancel_events(app, turn_id, reason, now, notice), now=now)
    features = SessionFeatures(app.registry, app.features)
    await features.read(tx, (row,))
    return to_session(row, features=features.of(row), pinned=False)


async def _copied_row(
    tx: Tx,
    caller: Caller,
    source: SessionRow,
    copy: SessionId,
    body: ForkSession,
    projection: Projection,
    through: int,
    now: Micros,
) -> SessionRow:
    config = source.config_struct()
    if body.system_prompt is not None:
        config = msgspec.structs.replace(config, system_prompt=body.system_prompt)
    if body.model_id is not None:
        await check_model(tx, source.org_id, body.model_id)
    at, handed_from = _agent_then(source, projection)
    agent_id, version_id = at.agent_id, at.agent_version_id
    if body.agent_id is not None:
        agent = await get_agent(tx, source.org_id, check_id(body.agent_id, "agent", "agent_id"))
        check_startable(agent)
        agent_id, version_id, handed_from = agent.id, agent.default_version_id, None
    config = await with_fork_values(tx, source, config, body, agent_id, version_id)
    usage = None if projection.usage is None else to_json(projection.usage)
    return msgspec.structs.replace(
        source.anew(copy, now),
        owner_id=caller.user_id,
        agent_id=agent_id,
        agent_version_id=version_id,
        title=clean_title(body.title) if body.title is not None else title_of_fork(source.title),
        tags=to_json(clean_tags(body.tags)) if body.tags is not None else source.tags,
        locale=body.locale or source.locale,
        model_id=body.model_id or source.model_id,
        config=to_json(config),
        forked_from_id=source.id,
        forked_from_sequence=through,
        updated_at=now,
        head=projection.head,
        status=projection.status,
        turn_id=projection.turn_id,
        turn_after=projection.turn_after,
        preview=projection.preview,
        output_preview=projection.output_preview,
        usage=usage,
        started_at=projection.started_at,
        parked=to_json(projection.parked) if projection.parked else None,
        queued=to_json(projection.queued) if projection.queued else None,
        loaded_tools=to_json(projection.loaded_tools) if projection.loaded_tools else None,
        external=to_json(_external_then(source, projection)),
        handed_from=handed_from,
    )


def _external_then(source: SessionRow, projection: Projection) -> tuple[External, ...]:
    """Return where text from outside came from, up to that point: an older release did not mark it."""
    unknown = (UNKNOWN,) if UNKNOWN in source.external_sources() else ()
    return with_sources(unknown, projection.external)


def _agent_then(source: SessionRow, projection: Projection) -> tuple[AgentAt, str | None]:
    """Return the session's own agent at that point of its log, and its `handed_from`."""
    if source.handed_from is None:
        return source.own_agent(), None  # or its log has only handoffs of a session that it is a fork of
    if projection.handed_to is None:
        return source.first_agent(), None
    return projection.handed_to, source.handed_from


async def _completed(tx: Tx, source: SessionRow, begun: Projection, through: int) -> Projection:
    """Continue the projection of a log's beginning up to a sequence."""
    projection, more = begun, begun.head < through
    while more:
        projection, more = await _project_part(tx, source, projection, through)
    return projection


async def _project_part(
    tx: Tx, source: SessionRow, before: Projection, through: int
) -> tuple[Projection, bool]:
    """Fold the next part of a log; also return whether there is more of it."""
    events, more = await events_within(
        tx, source.id, before.head, size=PART, limit=PART_EVENTS, until=through
    )
    return project(before, [_to_new_event(event) for event in events]), more


def _to_new_event(event: Event) -> NewEvent:
    return NewEvent(event.decoded(), event.context_struct(), event.ts)
