"""The turns of sessions: folded from their logs, from where this process parked them."""

from __future__ import annotations

from perdure.domain.ids import SessionId
from perdure.domain.turn import Calling, Idle, TurnState, fold
from perdure.store.database import Tx
from perdure.store.events import events_within
from perdure.store.rows import to_json
from perdure.store.sessions import SessionRow


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
