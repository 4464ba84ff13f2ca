"""Forks: independent copies of sessions."""

from __future__ import annotations

import msgspec

from perdure.app.context import App
from perdure.app.idempotency import Once, write_once
from perdure.app.sessions import cancel_events, check_model, check_startable, to_session
from perdure.capabilities.resolve import SessionFeatures, load_layers, resolve
from perdure.domain.accounts import Caller
from perdure.domain.errors import InvalidInput
from perdure.domain.events import Event, NewEvent
from perdure.domain.ids import SessionId, check_id
from perdure.domain.projection import Projection, project
from perdure.domain.sessions import (
    ForkSession,
    Session,
    clean_tags,
    clean_title,
)
from perdure.domain.times import Micros
from perdure.store.agents import get_agent
from perdure.store.database import Tx
from perdure.store.databases import copy_databases
from perdure.store.events import copy_events, events_after
from perdure.store.files import copy_tree
from perdure.store.rows import to_json
from perdure.store.sessions import SessionRow, add_session, append, get_session
from perdure.store.shell_states import copy_shell_state
from perdure.store.storage import copy_storage
from perdure.store.workspaces import get_workspace, hold_workspace

MAX_FORK = 100_000
"""The most events that a fork copies, which bounds the length of its transaction."""


async def fork_session(
    app: App, caller: Caller, session_id: SessionId, body: ForkSession, once: Once | None = None
) -> Session:
    """Create an independent, idle copy of a session up to a sequence of its log.

    A turn that is incomplete at that sequence is cancelled in the copy; the original continues.
    """
    now = app.now()

    async def work(tx: Tx) -> Session:
        source = await get_session(tx, caller.organization_id, session_id)
        through = source.head if body.from_sequence is None else body.from_sequence
        if not 1 <= through <= source.head:
            raise InvalidInput(f"`from_sequence` must be between 1 and {source.head}", field="from_sequence")
        if through > MAX_FORK:
            raise InvalidInput(
                f"a fork copies at most {MAX_FORK} events", code="fork_too_long", field="from_sequence"
            )
        row = await _copied_row(app, tx, caller, source, body, through, now)
        if body.agent_id is not None:
            # Another agent's tools may have the same names as the session's: fail now, not in the first turn.
            resolve((await load_layers(tx, row)).layers, app.registry)
        await add_session(tx, row)
        await copy_events(tx, source.id, row.id, through)
        await _copy_files(tx, source, row, now)
        await copy_databases(tx, source.id, row.id)
        await copy_shell_state(tx, source.id, row.id)
        await copy_storage(tx, app.vault, source.org_id, source.id, row.id, now)
        if row.status in ("active", "waiting_for_tool_results"):
            reason = "the session was forked in the middle of this turn"
            notice = "[This session is a copy that was made in the middle of this turn, which ends here.]"
            row, _ = await append(tx, row, cancel_events(app, row, reason, now, notice), now=now)
        return to_session(row, features=await SessionFeatures(app.registry).of(tx, row), pinned=False)

    return await write_once(app, once, work)


async def _copy_files(tx: Tx, source: SessionRow, row: SessionRow, now: Micros) -> None:
    """Create a workspace for the copy with the same files; their contents are shared."""
    if (await get_workspace(tx, source.org_id, source.workspace())).file_count:
        await hold_workspace(tx, row.org_id, row.workspace())
        await copy_tree(tx, row.org_id, source.workspace(), row.workspace(), now)


async def _copied_row(
    app: App, tx: Tx, caller: Caller, source: SessionRow, body: ForkSession, through: int, now: Micros
) -> SessionRow:
    projection = await rebuild_projection(tx, source.id, through)
    config = source.config_struct()
    if body.system_prompt is not None:
        config = msgspec.structs.replace(config, system_prompt=body.system_prompt)
    if body.model_id is not None:
        await check_model(tx, source.org_id, body.model_id)
    version_id = source.agent_version_id
    if body.agent_id is not None:
        agent = await get_agent(tx, source.org_id, check_id(body.agent_id, "agent", "agent_id"))
        check_startable(agent)
        version_id = agent.default_version_id
    usage = None if projection.usage is None else to_json(projection.usage)
    return msgspec.structs.replace(
        source,
        id=app.new_id("session"),
        owner_id=caller.user_id,
        agent_id=body.agent_id or source.agent_id,
        agent_version_id=version_id,
        workspace_id=None,
        title=clean_title(body.title) if body.title is not None else source.title,
        tags=to_json(clean_tags(body.tags)) if body.tags is not None else source.tags,
        locale=body.locale or source.locale,
        model_id=body.model_id or source.model_id,
        config=to_json(config),
        forked_from_id=source.id,
        forked_from_sequence=through,
        created_at=now,
        updated_at=now,
        epoch=0,
        recoveries=0,
        claimed_head=-1,
        head=projection.head,
        status=projection.status,
        turn_id=projection.turn_id,
        turn_after=projection.turn_after,
        wake_at=None,
        preview=projection.preview,
        output_preview=projection.output_preview,
        usage=usage,
        started_at=projection.started_at,
        finished_at=None,
    )


async def rebuild_projection(tx: Tx, session_id: SessionId, through: int) -> Projection:
    """Fold the projection of a log up to a sequence from its events."""
    projection = Projection()
    while projection.head < through:
        page = await events_after(tx, session_id, projection.head, limit=1000, until=through)
        if not page:
            break
        projection = project(projection, [_to_new_event(event) for event in page])
    return projection


def _to_new_event(event: Event) -> NewEvent:
    return NewEvent(event.decoded(), event.context_struct(), event.ts)
