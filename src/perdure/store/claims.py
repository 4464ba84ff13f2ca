"""Claims of sessions: at most one runner holds one (promise P3), by the row's epoch and head."""

from __future__ import annotations

import msgspec

from perdure.store.database import Tx
from perdure.store.sessions import SessionRow, refusal
from perdure.store.turn_slots import ACTIVE


async def claim(tx: Tx, row: SessionRow, *, counts: bool = True) -> SessionRow:
    """Take over a session that may have had a runner before (epoch + 1).

    A claim counts as one more recovery; a runner's append sets the number to 0. It is counted before the
    runner starts, because the process may not live to count it.

    Args:
        counts: False if the last claim was counted and should not have been.

    Raises:
        StaleHead, Fenced: another process was faster.
    """
    recoveries = row.recoveries + counts
    done = await tx.run(
        "UPDATE sessions SET epoch = epoch + 1, recoveries = ?, claimed_head = ?"
        " WHERE id = ? AND epoch = ? AND head = ?"
        " AND deleted_at IS NULL",
        recoveries,
        row.head,
        row.id,
        row.epoch,
        row.head,
    )
    if done != 1:
        raise await refusal(tx, row)
    return msgspec.structs.replace(row, epoch=row.epoch + 1, recoveries=recoveries, claimed_head=row.head)


async def rest(tx: Tx, row: SessionRow) -> SessionRow:
    """Note that the session rests, as `append` can do it. Raises StaleHead and Fenced like `append`.

    StaleHead also means that its turn, which waited for others to end, may go on.

    The attempt that came so far has not died, so recoveries are counted anew.
    """
    done = await tx.run(
        f"UPDATE sessions SET resting = 1, recoveries = 0,"
        f" turn_slot = CASE WHEN turn_slot = {ACTIVE} THEN 0 ELSE turn_slot END"
        " WHERE id = ? AND epoch = ? AND head = ? AND turn_slot = ? AND deleted_at IS NULL",
        row.id,
        row.epoch,
        row.head,
        row.turn_slot,
    )
    if done != 1:
        raise await refusal(tx, row)
    slot = 0 if row.turn_slot == ACTIVE else row.turn_slot
    return msgspec.structs.replace(row, resting=1, recoveries=0, turn_slot=slot)


async def release(tx: Tx, row: SessionRow) -> None:
    """Release a claim at a planned stop or an unavailable database, so that it does not count."""
    await tx.run(
        "UPDATE sessions SET recoveries = CASE WHEN recoveries > 0 THEN recoveries - 1 ELSE 0 END,"
        " claimed_head = -1 WHERE id = ? AND epoch = ?",
        row.id,
        row.epoch,
    )
