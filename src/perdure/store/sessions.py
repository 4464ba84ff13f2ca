"""Rows of sessions, and `append`, the only function that adds events to a log."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from perdure.domain.data_flow import UNKNOWN, External
from perdure.domain.errors import Damaged, Fenced, NotFound, StaleHead
from perdure.domain.events import (
    Event,
    NewEvent,
)
from perdure.domain.ids import (
    AgentId,
    AgentVersionId,
    HarnessId,
    ModelId,
    OrgId,
    SessionId,
    TaskId,
    TurnId,
    UserId,
    WorkspaceId,
)
from perdure.domain.messages import Usage
from perdure.domain.parked import ParkedCall
from perdure.domain.projection import Projection, project
from perdure.domain.queued import Queue
from perdure.domain.sessions import SessionConfig, Status
from perdure.domain.speakers import AgentAt
from perdure.domain.times import Micros
from perdure.domain.workspaces import own_workspace
from perdure.store.database import LOCK_ROW, Further, Rows, Tx, Value
from perdure.store.events import EVENT_COLUMNS, event_values, stored_event
from perdure.store.model_calls import INSERT_CALLS, calls_in
from perdure.store.plain_sessions import PLAIN
from perdure.store.rows import assignments, columns, from_json, insert, to_json, values
from perdure.store.session_counts import count_sessions, counted
from perdure.store.session_news import heard_of
from perdure.store.trace_turns import INSERT_TURNS, ended_turns
from perdure.store.turn_slots import slot_after
from perdure.store.webhook_deliveries import note_task_events


class SessionRow(Struct, frozen=True):
    """A session. The fields from `head` to `finished_at` are the projection of its log."""

    id: SessionId
    org_id: OrgId
    owner_id: UserId
    harness_id: HarnessId
    agent_id: AgentId | None
    title: str | None
    tags: str
    locale: str | None
    model_id: ModelId | None
    config: str
    forked_from_id: SessionId | None
    forked_from_sequence: int | None
    created_at: Micros
    updated_at: Micros
    deleted_at: Micros | None
    epoch: int
    recoveries: int
    claimed_head: int
    head: int
    status: Status
    turn_id: TurnId | None
    turn_after: int
    wake_at: Micros | None
    preview: str | None
    output_preview: str | None
    usage: str | None
    started_at: Micros | None
    finished_at: Micros | None
    agent_version_id: AgentVersionId | None = None
    """The agent version that the session runs; None follows the agent's current configuration."""
    workspace_id: WorkspaceId | None = None
    """The shared workspace; None for the session's own."""
    archived_at: Micros | None = None
    source: str = "api"
    parent_session_id: SessionId | None = None
    metadata: str = "{}"
    parked: str | None = None
    """The parked calls, as JSON; None for none. Part of the projection."""
    resting: int = 0
    """1 while nobody works on an active session, because all that is left are parked calls."""
    queued: str | None = None
    """The messages that wait for turns of their own, as JSON; None for none. Part of the projection."""
    loaded_tools: str | None = None
    """The names of the loaded tools, as JSON; None for none. Part of the projection."""
    root_session_id: SessionId | None = None
    """The session at the top of the tree; None for that session itself."""
    depth: int = 0
    task_id: TaskId | None = None
    """The parent's task that the session works on; None if it has no parent."""
    ended: int | None = None
    """The sequence of the event with which the session was done with its task."""
    news: int | None = None
    """The sequence of the last event that the parent has not heard of; None if it has heard of everything."""
    handed_from: str | None = None
    """The agent that the session was created with, as JSON, if its agent is another one now."""
    external: str | None = "[]"
    """Where text from outside in the session came from, as JSON; None if an older release began it, and
    nothing has been appended since. Part of the projection."""
    turn_slot: int = 0  # see turn_slots.py
    held_at: Micros | None = None

    def own_agent(self) -> AgentAt:
        """The session's own agent."""
        return AgentAt(self.agent_id, self.agent_version_id)

    def first_agent(self) -> AgentAt:
        """The agent that the session was created with. Its policies bind every agent that works here."""
        return self.own_agent() if self.handed_from is None else from_json(_AGENT, self.handed_from, "")

    def handed_over_by(self) -> AgentId | None:
        """The agent that the session was created with, if it was handed off since."""
        return None if self.handed_from is None else self.first_agent().agent_id

    def under(self, agent: AgentAt) -> SessionRow:
        """The session as if this agent were its own, to read its layers."""
        if agent == self.own_agent():
            return self
        return msgspec.structs.replace(
            self,
            agent_id=agent.agent_id,
            agent_version_id=agent.agent_version_id,
            handed_from=self.handed_from or to_json(self.own_agent()),
        )

    def workspace(self) -> WorkspaceId:
        """Return the id of the workspace that holds the session's files."""
        return self.workspace_id or own_workspace(self.id)

    def projection(self) -> Projection:
        return Projection(
            self.head,
            self.status,
            self.turn_id,
            self.turn_after,
            self.wake_at,
            self.preview,
            self.output_preview,
            self.usage_struct(),
            self.started_at,
            self.finished_at,
            self.parked_calls(),
            self.queued_messages(),
            self.loaded_names(),
            None if self.handed_from is None else self.own_agent(),
            self.external_sources(),
        )

    def parked_calls(self) -> tuple[ParkedCall, ...]:
        try:
            return () if self.parked is None else from_json(_PARKED, self.parked, "")
        except Damaged:
            return ()

    def queued_messages(self) -> Queue:
        try:
            return () if self.queued is None else from_json(_QUEUED, self.queued, "")
        except Damaged:
            return ()

    def loaded_names(self) -> tuple[str, ...]:
        """The loaded tools; none if they are damaged: the model can find them again."""
        try:
            return () if self.loaded_tools is None else from_json(_NAMES, self.loaded_tools, "")
        except Damaged:
            return ()

    def external_sources(self) -> tuple[External, ...]:
        """Where text from outside came from. What an older release has read is not known, so it counts."""
        if self.external == "[]":
            return ()
        try:
            unknown = () if self.status == "started" else (UNKNOWN,)
            return unknown if self.external is None else from_json(_EXTERNAL, self.external, "")
        except Damaged:
            return (UNKNOWN,)

    def usage_struct(self) -> Usage | None:
        """The usage so far; None if it is damaged, too: a turn must end, whatever was counted before."""
        try:
            return None if self.usage is None else from_json(_USAGE, self.usage, "")
        except Damaged:
            return None

    def config_struct(self) -> SessionConfig:
        if self.config == "{}":
            return _NO_CONFIG
        return from_json(_CONFIG, self.config, f"the session {self.id}")

    def tag_list(self) -> tuple[str, ...]:
        return () if self.tags == "[]" else from_json(_NAMES, self.tags, f"the session {self.id}")

    def anew(self, session_id: SessionId, now: Micros) -> SessionRow:
        """The row of a new session with the same settings, an empty log, no parent and its own workspace."""
        return msgspec.structs.replace(self, **_NEW, id=session_id, created_at=now, updated_at=now - 1)


_NEW: dict[str, object] = {
    "forked_from_id": None,
    "forked_from_sequence": None,
    "epoch": 0,
    "recoveries": 0,
    "claimed_head": -1,
    "head": 0,
    "status": "started",
    "turn_id": None,
    "turn_after": 0,
    "wake_at": None,
    "preview": None,
    "output_preview": None,
    "usage": None,
    "started_at": None,
    "finished_at": None,
    "workspace_id": None,
    "archived_at": None,
    "parent_session_id": None,
    "parked": None,
    "resting": 0,
    "queued": None,
    "loaded_tools": None,
    "root_session_id": None,
    "depth": 0,
    "task_id": None,
    "ended": None,
    "news": None,
    "external": "[]",
    "turn_slot": 0,
    "held_at": None,
}
_USAGE = msgspec.json.Decoder(Usage)
_CONFIG = msgspec.json.Decoder(SessionConfig)
_AGENT = msgspec.json.Decoder(AgentAt)
_NAMES = msgspec.json.Decoder(tuple[str, ...])
_EXTERNAL = msgspec.json.Decoder(tuple[External, ...])
_PARKED = msgspec.json.Decoder(tuple[ParkedCall, ...])
_QUEUED = msgspec.json.Decoder(Queue)
_NO_CONFIG = SessionConfig()
COLUMNS = columns(SessionRow)
_INSERT = insert("sessions", SessionRow)
_INSERT_ROWS = f"INSERT INTO sessions ({COLUMNS})"
_GET = f"SELECT {COLUMNS} FROM sessions WHERE id = ? AND org_id = ? AND deleted_at IS NULL"
_LOOK = f"SELECT {COLUMNS} FROM sessions WHERE id = ?"

IN_TURN = ("active", "waiting_for_tool_results", "paused")
"""Statuses of a session whose turn runs, or waits for a client, a person or a budget."""

BUSY = "status IN ('active', 'waiting_for_tool_results', 'paused')"
"""The condition of the partial index on such sessions, verbatim: SQLite uses it for no other."""

LATER = "updated_at = CASE WHEN updated_at < ? THEN ? ELSE updated_at + 1 END"
"""Makes `updated_at` grow strictly with every change, even when the clock goes backwards."""

_FOLDED = (
    "head", "epoch", "recoveries", "status", "turn_id", "turn_after", "wake_at", "preview", "output_preview",
    "usage", "started_at", "finished_at", "parked", "resting", "queued", "turn_slot", "loaded_tools",
    "external", "ended",
)  # fmt: skip
"""The columns that an append sets."""
_AS_READ = "updated_at = CASE WHEN updated_at = ? THEN ? WHEN updated_at < ? THEN ? ELSE updated_at + 2 END"
"""As `LATER`. If the row has changed since it was read, the caller's never has this `updated_at` again."""
_SET = f"UPDATE sessions SET {assignments(_FOLDED)}, news = COALESCE(?, news), {_AS_READ}"
_AT_HEAD = " WHERE id = ? AND org_id = ? AND head = ? AND epoch = ? AND deleted_at IS NULL"
_APPEND = f"{_SET}{_AT_HEAD}"
_APPEND_PLAIN = f"{_APPEND} AND updated_at = ? AND {PLAIN}"
# The search index has the agent, too.
_HAND_OFF = f"{_SET}, agent_id = ?, agent_version_id = ?, handed_from = ?, search_slot = NULL{_AT_HEAD}"
_INSERT_EVENTS = f"INSERT INTO events ({', '.join(EVENT_COLUMNS)})"


async def add_session(tx: Tx, row: SessionRow) -> None:
    """Insert a new session."""
    await tx.run(_INSERT, *values(row))
    await count_sessions(tx, row.org_id, 1, row.parent_session_id)


class BegunSession(Struct, frozen=True):
    """A new session with the first events of its log, as `append` returns them."""

    row: SessionRow
    events: tuple[Event, ...]
    event_rows: Rows

    def rows(self) -> tuple[Rows, ...]:
        """The rows to insert; the session has to be counted, too."""
        return Rows(_INSERT_ROWS, [values(self.row)]), self.event_rows


def new_session(row: SessionRow, events: Sequence[NewEvent], now: Micros) -> BegunSession:
    """Return a session that begins with these events."""
    new = _row_after(row, events, project(row.projection(), events), now, 0, fence=False, rests=False)
    stored, rows = _numbered(row, events)
    return BegunSession(new, stored, Rows(_INSERT_EVENTS, rows))


async def begin_session(
    tx: Tx, row: SessionRow, events: Sequence[NewEvent], *, now: Micros
) -> tuple[SessionRow, tuple[Event, ...]]:
    """Insert a new session with the first events of its log; return what `append` does."""
    new = new_session(row, events, now)
    await tx.append(_INSERT, values(new.row), new.event_rows, counted(tx.dialect, row.org_id, 1))
    return new.row, new.events


def _numbered(row: SessionRow, events: Sequence[NewEvent]) -> tuple[tuple[Event, ...], list[Sequence[Value]]]:
    """The events as they are stored after the row's head, and their rows."""
    stored = tuple(stored_event(row.id, index, event) for index, event in enumerate(events, row.head + 1))
    return stored, [event_values(row.org_id, each, new) for each, new in zip(stored, events, strict=True)]


async def get_session(tx: Tx, org_id: OrgId, session_id: SessionId, *, lock: bool = False) -> SessionRow:
    """Return the organization's session; `lock` locks its row until the commit.

    Raises:
        NotFound: it never existed, was deleted, or belongs to another organization; the error does not tell.
    """
    found = await tx.one(_GET + (LOCK_ROW[tx.dialect] if lock else ""), session_id, org_id)
    if found is None:
        raise NotFound("session")
    return SessionRow(*found)


async def lock_session(tx: Tx, row: SessionRow) -> None:
    """Lock a session's row until the commit, if it is still there, before the append that looks at it."""
    if LOCK_ROW[tx.dialect]:
        sql = "SELECT 1 FROM sessions WHERE id = ? AND org_id = ?"
        await tx.one(sql + LOCK_ROW[tx.dialect], row.id, row.org_id)


async def look_session(tx: Tx, session_id: SessionId) -> SessionRow | None:
    """Return the session of any organization, also a deleted one, for a runner or a sweep."""
    found = await tx.one(_LOOK, session_id)
    return None if found is None else SessionRow(*found)


async def append(
    tx: Tx,
    row: SessionRow,
    events: Sequence[NewEvent],
    *,
    now: Micros,
    claim: bool = False,
    fence: bool = False,
    progress: bool = True,
    rests: bool = False,
    plain: bool = False,
    further: Further | None = None,
    more: Sequence[Rows] = (),
) -> tuple[SessionRow, tuple[Event, ...]]:
    """Append events to the session's log, and update the projection in the same statement or transaction.

    Events of tasks are also noted for the webhooks that hear of them, in statements of their own.

    Args:
        row: the session as the caller last read it; the append succeeds only at this head and epoch.
        now: the current time, in microseconds.
        claim: also claim the session (epoch + 1), in the first append of a new turn.
        fence: also fence the session's current runner (epoch + 1), for a cancel.
        progress: whether the events are progress, so that the number of recoveries starts again at 0.
            Messages and files of clients are none: however often people write, a turn that kills its server
            has to end.
        rests: whether the session rests after these events: it has parked calls, and nothing else to do.
        plain: succeed only if nothing of the row was changed since it was read, as a lock would make sure,
            and if the session is plain (`plain_sessions.py`).
        further, more: what else the statement changes and inserts, as for `Tx.append`.

    Returns:
        The updated row, and the events as stored.

    Raises:
        StaleHead: the log has grown since `row` was read, or `plain` does not hold. Read, then decide again.
        Fenced: the session was claimed, cancelled or deleted since `row` was read.
    """
    recoveries = 0 if progress else row.recoveries
    after = project(row.projection(), events)
    new = _row_after(row, events, after, now, recoveries, fence=claim or fence, rests=rests)
    stored, rows = _numbered(row, events)
    sql = _APPEND if _agents_of(new) == _agents_of(row) else _HAND_OFF
    root_id = row.root_session_id or row.id
    calls = calls_in(events, stored, org_id=row.org_id, root_id=root_id, user_id=row.owner_id)
    traced = ended_turns(row.org_id, row.turn_after, events, stored) if tx.traces else ()
    inserts = Rows(_INSERT_EVENTS, rows), Rows(INSERT_CALLS, calls), Rows(INSERT_TURNS, traced)
    args = _append_args(row, new, now)
    if plain:
        sql, args = _APPEND_PLAIN, (*args, row.updated_at)
    if not await tx.append(sql, args, *inserts, *more, further=further):
        raise await refusal(tx, row)
    await note_task_events(tx, row.org_id, row.id, events, row.head + 1, now)
    return new, stored


def _row_after(
    row: SessionRow,
    events: Sequence[NewEvent],
    after: Projection,
    now: Micros,
    recoveries: int,
    *,
    fence: bool,
    rests: bool,
) -> SessionRow:
    """Return the row as it is after an append."""
    ended, news = (
        (None, None)
        if row.task_id is None
        else heard_of(row, events, after.status, in_turn=after.status in IN_TURN)
    )
    if after.handed_to is not None:
        row = msgspec.structs.replace(
            row,
            agent_id=after.handed_to.agent_id,
            agent_version_id=after.handed_to.agent_version_id,
            handed_from=row.handed_from or to_json(row.own_agent()),
        )
    return msgspec.structs.replace(
        row,
        epoch=row.epoch + 1 if fence else row.epoch,
        recoveries=recoveries,
        head=after.head,
        status=after.status,
        turn_id=after.turn_id,
        turn_after=after.turn_after,
        wake_at=after.wake_at,
        preview=after.preview,
        output_preview=after.output_preview,
        usage=None if after.usage is None else to_json(after.usage),
        started_at=after.started_at,
        finished_at=after.finished_at,
        parked=to_json(after.parked) if after.parked else None,
        resting=int(rests),
        queued=to_json(after.queued) if after.queued else None,
        turn_slot=slot_after(row.turn_slot, events, after.status, rests=rests),
        loaded_tools=to_json(after.loaded_tools) if after.loaded_tools else None,
        external=to_json(after.external) if after.external else "[]",
        ended=ended,
        news=news,
        updated_at=max(now, row.updated_at + 1),
    )


def _agents_of(row: SessionRow) -> tuple[str | None, ...]:
    return row.agent_id, row.agent_version_id, row.handed_from


def _append_args(row: SessionRow, new: SessionRow, now: Micros) -> tuple[Value, ...]:
    """Return the arguments of `_APPEND` or `_HAND_OFF`: the new values, then the expected ones."""
    return (
        *(getattr(new, name) for name in _FOLDED),
        None if new.news == row.news else new.news,  # others note what the parent has heard of
        *(row.updated_at, new.updated_at, now, now + 1),  # of `_AS_READ`
        *(() if _agents_of(new) == _agents_of(row) else _agents_of(new)),
        *(row.id, row.org_id, row.head, row.epoch),
    )


async def refusal(tx: Tx, row: SessionRow) -> StaleHead | Fenced:
    """Return the error for an append or a claim that found another head or epoch."""
    found = await tx.one(
        "SELECT epoch, deleted_at FROM sessions WHERE id = ? AND org_id = ?", row.id, row.org_id
    )
    if found is None or found[1] is not None or found[0] != row.epoch:
        return Fenced()
    return StaleHead()
