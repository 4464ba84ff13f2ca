"""The turns of sessions: folded from their logs, from where this process parked them."""

from __future__ import annotations

from perdure.domain.errors import Damaged, NotFound
from perdure.domain.events import NewEvent
from perdure.domain.ids import OrgId, SessionId
from perdure.domain.projection import Projection, project
from perdure.domain.turn import Calling, Idle, TurnState, fold
from perdure.store.database import Database, Tx
from perdure.store.events import events_within
from perdure.store.rows import to_json
from perdure.store.sessions import SessionRow, get_session


class ParkedTurns:
    """The turns that this process parked most recently, so that their logs need not be folded again.

    A log only grows, so a state that was folded up to some sequence stays correct, whoever works on the
    session afterwards: only later events have to be read. A missing entry costs a read, never correctness.
    Transactions in other threads read it.

    Args:
        budget: bytes, as `_weight` estimates them. 1 MB holds about 400 turns.
    """

    def __init__(self, budget: int = 1_000_000) -> None:
        self._budget = budget
        self._entries: dict[SessionId, tuple[Calling, int]] = {}
        self._total = 0

    def start_of(self, row: SessionRow) -> TurnState:
        """Return the state that the events after its head lead on from to the state of the current turn."""
        state, _ = self._entries.get(row.id, (None, 0))
        known = state is not None and row.turn_after <= state.head <= row.head
        return state if state is not None and known else Idle(head=row.turn_after)

    def put(self, session_id: SessionId, state: TurnState) -> None:
        """Keep a parked turn of a session at rest. Over the budget, drop those parked longest ago."""
        self.discard(session_id)
        if not isinstance(state, Calling):
            return
        weight = _weight(state)
        if weight > self._budget // 8:
            return  # it would displace too many others
        self._entries[session_id] = (state, weight)
        self._total += weight
        while self._total > self._budget:
            self.discard(next(iter(self._entries)))

    def discard(self, session_id: SessionId) -> None:
        """Remove the session's turn."""
        _, weight = self._entries.pop(session_id, (None, 0))
        self._total -= weight


def _weight(state: Calling) -> int:
    """Estimate its memory in bytes. Arguments take a few times their JSON, which is in it as well."""
    schema = state.turn.output_schema
    size = 0 if schema is None else 5 * len(to_json(schema))
    return size + 1_500 + 800 * len(state.calls) + 5 * len(state.turn.last_calls) + 800 * len(state.pending)


async def read_turn(tx: Tx, row: SessionRow, turns: ParkedTurns) -> TurnState:
    """Fold the state of the session's current turn from its log."""
    state = turns.start_of(row)
    while state.head < row.head:
        page, _ = await events_within(tx, row.id, state.head, until=row.head)
        if not page:
            break
        state = fold(page, state)
    return state


async def complete_parked(database: Database, limit: int = 20_000) -> None:
    """Fill in the parked calls of sessions that wait since a release whose rows did not have them.

    Appends by others meanwhile are safe: only a row at the head that was folded is changed.
    """
    waiting = await database.read(
        lambda tx: tx.all(
            "SELECT org_id, id FROM sessions WHERE status = 'waiting_for_tool_results' AND parked IS NULL"
            " AND deleted_at IS NULL ORDER BY org_id, created_at, id LIMIT ?",
            limit,
        ),
        long=True,
    )
    for org_id, session_id in waiting:
        await _complete(database, org_id, session_id)


async def _complete(database: Database, org_id: OrgId, session_id: SessionId) -> None:
    try:
        head, parked = await database.read(lambda tx: _folded(tx, org_id, session_id), long=True)
    except (NotFound, Damaged):
        return
    if parked is not None:
        change = "UPDATE sessions SET parked = ? WHERE id = ? AND head = ? AND parked IS NULL"
        await database.write(lambda tx: tx.run(change, parked, session_id, head), single=True)


async def _folded(tx: Tx, org_id: OrgId, session_id: SessionId) -> tuple[int, str | None]:
    """A session's head, and the parked calls of its current turn as its row should have them."""
    row, more = await get_session(tx, org_id, session_id), True
    found = Projection(head=row.turn_after, status="active")
    while more:
        events, more = await events_within(tx, row.id, found.head, until=row.head)
        new = [NewEvent(each.decoded(), each.context_struct(), each.ts) for each in events]
        found = project(found, new)
    return row.head, to_json(found.parked) if found.parked else None
