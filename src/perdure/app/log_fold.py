"""Folds a whole log, and compares what it gives with the rows that were written with it."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256

from msgspec import Struct

from perdure.domain.errors import Damaged
from perdure.domain.events import (
    Event,
    LlmGenerationData,
    MessageFeedbackData,
    NewEvent,
    ParticipantJoinedData,
    ParticipantLeftData,
    TaskCreatedData,
    TaskMessageReceivedData,
    TaskMessageSentData,
    TaskUpdatedData,
)
from perdure.domain.ids import TaskId
from perdure.domain.parked import ParkedCall
from perdure.domain.projection import Projection, project
from perdure.domain.tasks import SessionTask
from perdure.domain.times import Micros
from perdure.domain.verification import Checked, Difference, shown
from perdure.store import verify as reads
from perdure.store.database import Row, Tx
from perdure.store.events import events_within
from perdure.store.model_calls import ModelCallRow, calls_in
from perdure.store.rows import to_json
from perdure.store.sessions import SessionRow

SINCE: dict[str, int] = {"parked": 11, "queued": 13, "loaded_tools": 17, "handed_to": 25, "external": 31}
"""Fields of the projection, and the migrations that added them: rows that nothing was appended to since do
not have them."""
LEDGER = 30
"""The migration that added the ledger."""


class _Task(Struct, frozen=True):
    """A task as the log has it last: its digest, because there may be many of them."""

    digest: bytes
    ended: bool


class LogFold:
    """The fold of one session's log, and what differs from its rows.

    Args:
        row: the session's row.
        migrated: when each migration was applied.
    """

    def __init__(self, row: SessionRow, migrated: dict[int, Micros]) -> None:
        self._row = row
        self._migrated = migrated
        self._copied = row.forked_from_sequence or 0
        """The last event that was copied from another log. The rows of those events stay with that log."""
        self._projection = Projection()
        self._tasks: dict[TaskId, _Task] = {}
        self._messages: Counter[TaskId] = Counter()
        self._feedback: dict[tuple[str, str], bytes] = {}
        self._present: set[str] = set()
        self._calls = 0
        self.events = 0
        self.differences: list[Difference] = []

    def _differ(
        self,
        what: Checked,
        detail: str,
        expected: object = None,
        found: object = None,
        *,
        values: bool = False,
    ) -> None:
        row = self._row
        texts = (shown(to_json(expected)), shown(to_json(found))) if values else (None, None)
        self.differences.append(Difference(what, detail, row.org_id, row.id, *texts))

    async def run(self, tx: Tx) -> None:
        """Read the log and compare everything. `tx` sees one moment."""
        if not await self._fold(tx):
            return
        self._compare_projection()
        await self._compare_tasks(tx)
        await self._compare_feedback(tx)
        if self._copied == 0:
            present = await reads.present_participants(tx, self._row.id)
            if present != self._present:
                missing, extra = sorted(self._present - present), sorted(present - self._present)
                self._differ("participants", "the participants", missing, extra, values=True)
        for id_, sequence in await reads.misplaced_client_messages(tx, self._row):
            self._differ("client_messages", f"the client's message {id_} is not event {sequence}")
        await self._compare_parked(tx)
        await self._compare_ledger(tx)

    async def _fold(self, tx: Tx) -> bool:
        """Fold the log; return whether all of it could be read."""
        row, more = self._row, True
        while more:
            page, more = await events_within(tx, row.id, self.events, until=row.head)
            new = []
            for event in page:
                if event.sequence != self.events + 1:
                    self._differ("log", f"the event {self.events + 1} is missing")
                    return False
                self.events = event.sequence
                try:
                    new.append(NewEvent(event.decoded(), event.context_struct(), event.ts))
                except Damaged:
                    self._differ("log", f"the event {event.sequence} ({event.type}) cannot be read")
                    return False
            self._projection = project(self._projection, new)
            for event, each in zip(page, new, strict=True):
                self._note(event, each)
            await self._compare_calls(tx, page, new)
            more = more and bool(page)
        beyond, _ = await events_within(tx, row.id, row.head, limit=1)
        if self.events != row.head:
            self._differ("log", "the last event", row.head, self.events, values=True)
        elif beyond:
            self._differ("log", f"the log goes on after the session's head {row.head}")
        return self.events == row.head

    def _note(self, event: Event, new: NewEvent) -> None:
        data, own = new.data, event.sequence > self._copied
        match data:
            case TaskCreatedData(task=task) if own:
                self._tasks[task.id] = _digest(task)
            case TaskUpdatedData(task=task) if task.id in self._tasks:
                self._tasks[task.id] = _digest(task)
            case TaskMessageSentData(task_id=task_id) | TaskMessageReceivedData(task_id=task_id):
                self._messages[task_id] += own
            case MessageFeedbackData():
                key = (data.message_id, data.user_id)
                if data.rating is None and data.comment is None:
                    self._feedback.pop(key, None)
                else:
                    self._feedback[key] = _opinion(data.rating, data.comment)
            case ParticipantJoinedData():
                self._present.add(data.participant_id)
            case ParticipantLeftData():
                self._present.discard(data.participant_id)

    def _has(self, migration: int) -> bool:
        """Whether something was appended since a migration, so that the row has what it added."""
        return self._row.updated_at >= self._migrated.get(migration, 0)

    def _compare_projection(self) -> None:
        expected, found = self._projection, self._row.projection()
        for name in Projection.__struct_fields__:
            wanted, kept = getattr(expected, name), getattr(found, name)
            if name == "parked":
                wanted = _as_kept(wanted, kept)
            if wanted == kept or not self._has(SINCE.get(name, 0)):
                continue
            if name == "external" and self._row.external is None:
                continue
            if name == "handed_to" and self._copied:
                continue  # the copy's agent may have been chosen
            self._differ("session", name, wanted, kept, values=True)

    async def _compare_tasks(self, tx: Tx) -> None:
        rows = {row[0]: row for row in await reads.tasks_of(tx, self._row.id)}
        for id_, task in self._tasks.items():
            row = rows.pop(id_, None)
            if row is None:
                if not task.ended:  # those that have ended are purged some day
                    self._differ("tasks", f"the task {id_} has no row")
                continue
            self._compare_task(id_, task, row)
        for id_ in rows:
            self._differ("tasks", f"the task {id_} is not in the log")
        counted = await reads.count_task_messages(tx, list(self._tasks)) if self._tasks else {}
        for id_, kept in counted.items():
            if kept != self._messages[id_]:
                detail = f"the number of messages of the task {id_}"
                self._differ("task_messages", detail, self._messages[id_], kept, values=True)

    def _compare_task(self, id_: TaskId, task: _Task, row: Row) -> None:
        try:
            kept = reads.task_in(row)
        except Damaged:
            self._differ("tasks", f"the task {id_} cannot be read")
            return
        if _digest(kept) != task:
            self._differ("tasks", f"the task {id_} is not what the log says of it")
        if (row[1], row[2], row[3] is not None) != (kept.state, kept.links.child_session_id, kept.ended):
            self._differ("tasks", f"the columns of the task {id_} differ from the task")

    async def _compare_feedback(self, tx: Tx) -> None:
        kept = {
            (row[0], row[1]): _opinion(row[2], row[3]) for row in await reads.feedback_of(tx, self._row.id)
        }
        for key in sorted(kept.keys() | self._feedback.keys()):
            if kept.get(key) != self._feedback.get(key):
                self._differ("feedback", f"what {key[1]} says about {key[0]}")

    async def _compare_parked(self, tx: Tx) -> None:
        """Find parked calls without the row that answers find them by."""
        for kind in reads.WAITING:
            calls = [each for each in self._projection.parked if each.kind == kind]
            if not calls:
                continue
            known = await reads.waiting_calls(tx, self._row.id, kind)
            for call in calls:
                if call.tool_call_id not in known:
                    self._differ("parked_calls", f"the parked {kind} {call.tool_call_id} has no row".rstrip())

    async def _compare_calls(self, tx: Tx, page: list[Event], new: list[NewEvent]) -> None:
        """Compare the calls of a page with the ledger."""
        began = self._migrated.get(LEDGER, 0)
        pairs = [
            (event, each)
            for event, each in zip(page, new, strict=True)
            if isinstance(each.data, LlmGenerationData)
            and event.sequence > self._copied
            and event.ts >= began
        ]
        row = self._row
        rows = calls_in(
            [each for _, each in pairs],
            [event for event, _ in pairs],
            org_id=row.org_id,
            root_id=row.root_session_id or row.id,
            user_id=row.owner_id,
        )
        wanted = {str(each[0]): ModelCallRow(*each) for each in rows}  # type: ignore[arg-type]
        kept = await reads.ledger_rows(tx, list(wanted)) if wanted else {}
        self._calls += len(wanted)
        for id_, call in wanted.items():
            if id_ not in kept:
                self._differ("ledger", f"the model call {id_} is missing")
            elif call != kept[id_]:
                names = [
                    name for name in call.__struct_fields__ if getattr(call, name) != getattr(kept[id_], name)
                ]
                values = [[getattr(each, name) for name in names] for each in (call, kept[id_])]
                self._differ("ledger", f"{', '.join(names)} of the model call {id_}", *values, values=True)

    async def _compare_ledger(self, tx: Tx) -> None:
        if self._row.created_at < self._migrated.get(LEDGER, 0):
            return
        found = await reads.count_ledger(tx, self._row)
        if found != self._calls:
            self._differ("ledger", "the number of the session's model calls", self._calls, found, values=True)


def _as_kept(wanted: tuple[ParkedCall, ...], kept: tuple[ParkedCall, ...]) -> tuple[ParkedCall, ...]:
    """The parked calls without what an older release did not note of them."""
    old = {each.tool_call_id for each in kept if not each.asked_at}
    return tuple(
        ParkedCall(each.kind, each.tool_call_id, each.tool_name, each.until)
        if each.tool_call_id in old
        else each
        for each in wanted
    )


def _digest(task: SessionTask) -> _Task:
    return _Task(sha256(to_json(task).encode()).digest(), task.ended)


def _opinion(rating: str | None, comment: str | None) -> bytes:
    return sha256(to_json([rating, comment]).encode()).digest()
