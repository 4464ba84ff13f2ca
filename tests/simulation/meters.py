"""What the calls of the simulated model use, if their money is watched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.domain.messages import Message, Usage
from perdure.llm.driver import ModelRequest
from perdure.store.budget_holds import HoldRow
from perdure.store.rows import columns

if TYPE_CHECKING:
    from tests.simulation.world import Process

ERROR = 300
"""Tokens by which the estimate of a prompt is off at most."""
NUDGE = "message_" + "0" * 32
HOLD = (
    f"SELECT {columns(HoldRow)} FROM budget_holds WHERE session_id = ? AND settled_at IS NULL"
    " ORDER BY epoch DESC, created_at DESC"
)


def metered(process: Process, request: ModelRequest, message: Message | None, plain: Usage) -> Usage:
    """What a call uses: about the prompt that it holds the money of, and an answer that fits.

    Args:
        message: the newest message of the prompt.
        plain: what it uses in a world without budgets.
    """
    world, session_id = process.world, request.cache_key or ""
    if not world.budgets:
        return plain
    found = world.store.reader.execute(HOLD, (session_id,)).fetchone()
    if found is None or request.max_output_tokens is None:
        row = world.store.row(session_id) if session_id else None
        if (
            row is not None
            and process.engine.claimed_epochs.get(row.id) == row.epoch
            and row.deleted_at is None
        ):
            world.blame(f"P13: {session_id[-4:]} calls the model, and holds no money")
        return plain
    held = next(each for each in HoldRow(*found).held_structs() if each.budget_id == world.budgets[1])
    prompt = held.amount - request.max_output_tokens
    used = Usage(
        max(1, prompt + world.rng.randint(-ERROR, ERROR // 4)),
        world.rng.randint(1, min(300, request.max_output_tokens)),
    )
    if message is not None and message.id == NUDGE and (first := world.empty.get(session_id)) is not None:
        both = first.plus(used)
        world.parts[both.input_tokens, both.output_tokens] = [
            each.input_tokens + each.output_tokens for each in (first, used)
        ]
    return used
