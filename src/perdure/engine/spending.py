"""The money of model calls (promise P13): planned and held before a call is sent, settled when it ends."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

from msgspec.structs import replace

from perdure.capabilities.model_choice import ModelChoice
from perdure.capabilities.resolve import ResolvedAgent
from perdure.domain.errors import Fenced, ModelError, OverBudget, PerdureError
from perdure.domain.event_data import EventData
from perdure.domain.events import (
    BudgetExhaustedData,
    BudgetPausedData,
    NewEvent,
    OutputMessageWithdrawnData,
    ReasonCompletedData,
    TurnParkedData,
)
from perdure.domain.ids import MessageId
from perdure.domain.messages import Usage
from perdure.domain.model_profiles import ModelProfile
from perdure.domain.spans import reason_context, turn_context
from perdure.domain.spending import (
    Held,
    Refusal,
    Reservation,
    SpentOn,
    Standing,
    amount_of,
    plan_call,
    said_of,
    shown,
)
from perdure.domain.times import to_rfc3339
from perdure.domain.turn import Reasoning
from perdure.domain.turn_totals import Turn
from perdure.engine.budget import expected_input, learned_limits
from perdure.engine.generation import served_model
from perdure.engine.run import Run
from perdure.engine.settlements import Awaited, Money, Settlement, settled_also
from perdure.store.budget_holds import holds_of, settle_lost
from perdure.store.budgets import lease, roll_budget, standings_of
from perdure.store.sessions import look_session

TRIES = 8
"""How often a call is planned anew because others were faster."""
LONGEST_WAIT = 30 * 86_400
"""Seconds after which a turn tries again, if nothing says when its budget has money again."""
SHORTEST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds until a turn tries again while calls that are under way hold the rest of its budget."""
EXHAUSTED = "budget_exhausted"
UNPRICED = "model_price_unknown"
_CODES = {"paused": "budget_paused", "unpriced": UNPRICED}

_SECOND = 1_000_000

log = logging.getLogger("perdure.engine")


async def read_standings(run: Run) -> tuple[Standing, ...]:
    """Read the budgets of the session's next model call."""
    agent_id = run.voice.agent_id
    return await run.engine.database.read(lambda tx: standings_of(tx, run.row, agent_id))


async def plan_money(
    run: Run, choice: ModelChoice, prompt: int, longest: int | None = None
) -> Money | Refusal | None:
    """Plan the next model call, and lease what it will hold.

    Args:
        prompt: the estimated tokens of the prompt.
        longest: tokens of answer that the call asks for at most; by default, what the model gives.

    Returns:
        None if no budget applies.
    """
    standings, run.standings = run.standings, None
    tries = 0
    while True:
        standings = await read_standings(run) if standings is None else standings
        if not standings:
            return None
        if not await _roll(run, standings):
            profile = await run.engine.catalog.profile(served_model(choice))
            cost = None if profile is None else profile.cost
            most = _most_output(run, choice, profile)
            most = most if longest is None else min(longest, most or longest)
            plan = plan_call(standings, cost, prompt, most)
            if not isinstance(plan, Refusal) and await _lease(run, standings, plan.held):
                return _money(run, choice, plan, standings, prompt)
            # What an ended call of this session still holds may be missing.
            if not await settle_ended(run) and isinstance(plan, Refusal):
                return plan
        tries += 1
        if tries == TRIES:
            return Refusal(standings[0], "reserved")
        standings = None


def _money(
    run: Run, choice: ModelChoice, plan: Reservation, standings: Sequence[Standing], prompt: int
) -> Money:
    row = run.row
    on = SpentOn(
        row.org_id,
        row.id,
        row.owner_id,
        choice.model.model_id,
        row.root_session_id,
        run.voice.agent_id,
        choice.provider.provider_type,
    )
    epoch = row.epoch if run.claimed else row.epoch + 1
    now, hold_id = run.engine.clock.now(), run.engine.new_id("hold")
    return Money(on, plan, standings, prompt, epoch=epoch, now=now, hold_id=hold_id)


def _most_output(run: Run, choice: ModelChoice, profile: ModelProfile | None) -> int | None:
    """The longest answer that the model gives, in tokens; None if it is not known."""
    learned = learned_limits(run, choice).output
    listed = None if profile is None or profile.limits is None else profile.limits.output
    return listed if learned is None else min(learned, listed or learned)


async def unpriced(run: Run, choice: ModelChoice) -> tuple[str, str] | None:
    """The error code and message if a budget in US dollars does not permit the model; None if all do."""
    wants = [each.id for each in run.standings or () if each.currency == "usd" and each.unpriced is None]
    if not wants:
        return None
    profile = await run.engine.catalog.profile(served_model(choice))
    if profile is not None and profile.cost is not None:
        return None
    return UNPRICED, (
        f"The price of the model {choice.model.model_id!r} is not known, so the budget {wants[0]} does not "
        "permit it. Set the budget's `unpriced` to a price for such models, or use another model."
    )


async def _roll(run: Run, standings: Sequence[Standing]) -> bool:
    """Begin the periods that are due, each in a transaction of its own; return whether there were any."""
    now, org_id = run.engine.clock.now(), run.row.org_id
    due = [each.id for each in standings if each.rolls_at is not None and each.rolls_at <= now]

    for budget_id in due:
        await run.engine.database.write(partial(roll_budget, org_id=org_id, budget_id=budget_id, now=now))
    return bool(due)


async def _lease(run: Run, standings: Sequence[Standing], held: Sequence[Held]) -> bool:
    """Lease what the session's shards lack, each budget in a transaction of its own."""
    free = {each.id: each.free for each in standings}
    now, org_id = run.engine.clock.now(), run.row.org_id
    for each in held:
        if each.amount > 0 and free[each.budget_id] < each.amount:
            leased = await run.engine.database.write(partial(lease, org_id=org_id, held=each, now=now))
            if not leased:
                return False
    return True


def parked_by(run: Run, turn: Turn, refusal: Refusal) -> tuple[list[NewEvent], Awaited | None]:
    """The events that park a turn without money, and what their transaction notes besides."""
    now, standing = run.engine.clock.now(), refusal.standing
    context = turn_context(turn)
    if refusal.why == "reserved":
        since = now if turn.parked_since is None else turn.parked_since
        pause = min(max((now - since) / _SECOND / 2, SHORTEST_PAUSE), LONGEST_PAUSE)
        until = now + round(pause * (0.5 + run.engine.jitter() / 2) * _SECOND)
        error = "Model calls that are under way hold the rest of a budget."
        parked = TurnParkedData(turn.id, "reservation", to_rfc3339(until), "budget_reserved", error)
        return [NewEvent(parked, context, now)], None
    until = standing.rolls_at if standing.rolls_at is not None else now + LONGEST_WAIT * _SECOND
    error = _refused(refusal)
    data: list[EventData] = []
    if refusal.why == "exhausted":
        needed = amount_of(standing.currency, refusal.needed)
        data.append(BudgetExhaustedData(*said_of(standing), error, needed))
    code = _CODES.get(refusal.why, EXHAUSTED)
    parked = TurnParkedData(
        turn.id, "budget", to_rfc3339(max(until, now + _SECOND)), code, error, budget_id=standing.id
    )
    data += [BudgetPausedData(*said_of(standing), error), parked]

    awaited = Awaited(run.row, standing.id, refusal.needed, now)
    return [NewEvent(each, context, now) for each in data], awaited


def _refused(refusal: Refusal) -> str:
    """Why there is no money, for people."""
    standing = refusal.standing
    if refusal.why == "paused":
        return f"The budget {standing.id} is paused. Set its status to `active` to go on."
    if refusal.why == "unpriced":  # it is newer than the choice of the model, which fails the turn
        return f"The budget {standing.id} does not permit models whose prices are not known."
    left, needed = shown(standing.currency, standing.balance), shown(standing.currency, refusal.needed)
    limit = shown(standing.currency, standing.limit)
    return (
        f"The budget {standing.id} has {left} of {limit} left, and the next model call needs at least "
        f"{needed}. Raise its limit or top it up to go on."
    )


async def settle_dead(run: Run) -> None:
    """Settle what dead attempts of the session hold, as if it was spent: nobody knows how far they came."""
    if run.standings == ():
        return  # no budget applies: a sweep sees to those that did
    row, now, database = run.row, run.engine.clock.now(), run.engine.database
    left = await database.read(lambda tx: holds_of(tx, row.id, row.epoch))
    for each in left:
        await database.write(partial(settle_lost, left=each, now=now))
    if left:
        run.standings = None


async def reopen(run: Run, agent: ResolvedAgent, choice: ModelChoice) -> list[NewEvent]:
    """Hold the money of a call that an earlier runner began: see `settle_dead` for what that one held.

    Returns:
        The events that end the call, if there is no money for making it again.

    Raises:
        Fenced: another runner has claimed the session.
    """
    if run.standings == ():
        return []
    row, database = run.row, run.engine.database
    run.standings = None
    state = run.phase(Reasoning)
    try:
        run.money = await side_money(run, choice, expected_input(run, agent, choice))
    except Refused as error:
        return await _given_up(run, state, error.refusal)
    current = await database.read(lambda tx: look_session(tx, row.id))
    if current is None or current.epoch != row.epoch:
        raise Fenced
    return []


async def _given_up(run: Run, state: Reasoning, refusal: Refusal) -> list[NewEvent]:
    """The events that end a call that was begun and is not made, and park its turn."""
    now, context = run.engine.clock.now(), reason_context(state.turn, state.exec_id)
    message_id = state.message_id or run.engine.new_id("message")
    completed = ReasonCompletedData(
        success=False,
        has_tool_calls=False,
        tool_call_count=0,
        error=_refused(refusal),
        error_code=EXHAUSTED,
    )
    return await parked_instead(run, message_id, refusal, [NewEvent(completed, context, now)])


async def parked_instead(
    run: Run, message_id: MessageId, refusal: Refusal, failure: Sequence[NewEvent]
) -> list[NewEvent]:
    """The events of a model call that was begun and cannot go on without money: its turn is parked.

    Args:
        message_id: the message that the call was to write.
        failure: the events that end the call.
    """
    state, now = run.phase(Reasoning), run.engine.clock.now()
    withdrawn = OutputMessageWithdrawnData(state.turn.id, message_id, "parked")
    events, awaited = parked_by(run, state.turn, refusal)
    if awaited is not None:
        run.settling.append(awaited)  # the append that parks the turn notes it: nobody wakes it before
    return [NewEvent(withdrawn, reason_context(state.turn, state.exec_id), now), *failure, *events]


async def settle_ended(run: Run) -> bool:
    """Settle the calls that have ended before an append does; return whether there were any."""
    ended = [each for each in run.settling if isinstance(each, Settlement)]
    work = settled_also(ended, None, None, run.engine.clock.now())
    if work is None:
        return False
    await run.engine.database.write(work)
    run.forget_settled(ended)
    return True


async def settle_rest(run: Run) -> None:
    """Settle what the run's calls hold when it ends without an append that does; else a sweep would."""
    if run.money is not None:
        run.settling.append(run.money.given_up())
        run.money = None
    # Without an append, the log gets no warning, so that the next call has to give it.
    ended = [each for each in run.settling if isinstance(each, Settlement)]
    run.settling = [replace(each, announced=False) for each in ended]
    try:
        await settle_ended(run)
    except PerdureError as error:
        log.warning("session %s: what a model call has cost is settled later: %s", run.row.id, error.message)


class Refused(ModelError):
    """There is no money for a model call."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(_refused(refusal), code=EXHAUSTED)
        self.refusal = refusal


async def side_money(run: Run, choice: ModelChoice, prompt: int, longest: int | None = None) -> Money | None:
    """Hold the money of a model call that no append opens, such as one that writes a summary.

    Args:
        prompt, longest: as for `plan_money`.

    Returns:
        None if no budget applies. The caller puts its settlement into `run.settling`, or calls `settle_rest`.

    Raises:
        ModelError: `budget_exhausted`; the call must not be made.
    """
    while True:
        money = await plan_money(run, choice, prompt, longest)
        if isinstance(money, Refusal):
            raise Refused(money)
        if money is None:
            return None
        try:
            await run.engine.database.write(money.hold)
        except OverBudget:
            continue
        except BaseException:
            # It may be held. Not before: whatever is in `settling` is settled by appends of others.
            run.settling.append(money.settlement(Usage(0, 0)))
            raise
        return money


async def renew(
    run: Run, agent: ResolvedAgent, choice: ModelChoice, money: Money, used: Usage | None = None
) -> Money | None:
    """Settle a request that was paid for, and hold the money of another one of the same model call.

    Args:
        used: what it used; None if its end did not say.

    Raises:
        ModelError: `budget_exhausted`.
    """
    ended = money.given_up() if used is None else money.settlement(used)
    run.money, run.settling = None, [*run.settling, ended]
    await settle_ended(run)
    run.money = await side_money(run, choice, expected_input(run, agent, choice))
    return run.money
