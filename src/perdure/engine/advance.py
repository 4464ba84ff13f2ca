"""The loop: decide the next action, log its start, execute it; until the session is idle or parked."""

from __future__ import annotations

import logging
from collections.abc import Callable

from msgspec.structs import replace

from perdure.capabilities.layers import SessionLayers, acting, load_layers
from perdure.capabilities.model_choice import ModelChoice, choose_model
from perdure.capabilities.resolve import ResolvedAgent, resolve_session
from perdure.domain.actions import (
    AskApproval,
    AwaitClient,
    CallModel,
    EndBatch,
    ExpireCalls,
    Fail,
    Finish,
    Nothing,
    Resume,
    RunTools,
    StartTurn,
    TurnRules,
    next_action,
)
from perdure.domain.errors import Fenced, OverBudget, PerdureError
from perdure.domain.events import ActCompletedData, InputMessageData, NewEvent
from perdure.domain.files import Content
from perdure.domain.ids import SessionId
from perdure.domain.messages import Message
from perdure.domain.pending import steering
from perdure.domain.policy_hooks import for_event
from perdure.domain.spending import Refusal
from perdure.domain.steps import Started
from perdure.domain.turn import Answered, Calling, Idle, Reasoning, TurnState, Waiting
from perdure.domain.turn_queries import next_controls, offered_tools, only_waits
from perdure.domain.turn_totals import Turn
from perdure.domain.variables import missing_message
from perdure.engine.attempt import Attempt, is_interruption
from perdure.engine.budget import expected_input
from perdure.engine.compact import compact, is_full
from perdure.engine.context import Engine
from perdure.engine.data_flow import rules_ahead, with_instructions
from perdure.engine.deferred import ended_tasks, in_background, unanswered
from perdure.engine.found_tools import commit_with_tools, is_outdated
from perdure.engine.hooks import vet_calls, vet_model_call
from perdure.engine.joined_starts import join_starts, run_with_start
from perdure.engine.limits import held_back, may_go_on
from perdure.engine.loading import loaded_after
from perdure.engine.model_call import call_model
from perdure.engine.observed import observe_fence
from perdure.engine.outages import outlast
from perdure.engine.patience import admits, fallback_of, instead_of_resuming, resumed, was_given_up
from perdure.engine.run import Run
from perdure.engine.spending import parked_by, plan_money, reopen, settle_dead, settle_rest, unpriced
from perdure.engine.tool_calls import end_batch, refuse_invalid_calls, run_tools
from perdure.engine.tool_output import spill_results
from perdure.engine.turn_events import (
    begin_model_call,
    begin_tools,
    begin_turn,
    expire_calls,
    fail_turn,
    finish_turn,
    request_approvals,
    request_results,
)
from perdure.engine.voices import voice_of
from perdure.store.call_reads import read_call
from perdure.store.database import Tx
from perdure.store.events import events_after
from perdure.store.queue import Begun
from perdure.store.sessions import IN_TURN
from perdure.store.storage import open_secrets
from perdure.store.tool_lists import read_tool_list
from perdure.store.turn_slots import ACTIVE

log = logging.getLogger("perdure.engine")


async def advance(
    engine: Engine,
    session_id: SessionId,
    *,
    again: bool = False,
    retried: bool = False,
    trouble: str | None = None,
    begun: Begun | None = None,
    of_child: Callable[[SessionId, bool], None] | None = None,
) -> bool:
    """Run the session until it is idle or parked; return whether its parent may have to hear of it.

    Returns without an error if another runner is at work on the session, or if there is nothing to do.

    Args:
        again: whether an earlier attempt may have died or failed, so that this one counts as a recovery.
        retried: whether the caller's own attempt before this one has failed.
        trouble: the kind of error that ended the attempt before, if it is known.
        begun: the session as it may still be.
        of_child: is called if the session is a sub-agent's, with whether its parent has something to hear
            already.

    Raises:
        Unavailable: the database cannot be reached; the turn can be continued later.
    """
    attempt = Attempt(engine, session_id, again=again, retried=retried, trouble=trouble, begun=begun)
    run: Run | None = None
    finished, interrupted = False, False
    try:
        run = await attempt.open()
        if run is None:
            return attempt.of_child
        if of_child is not None and run.row.task_id is not None and run.row.ended is None:
            of_child(session_id, run.row.news is not None and run.row.started_at is not None)
        while await _step(run):
            pass
        finished = True
        engine.conversations.put(session_id, run.conversation)  # the next turn can use it
        engine.turns.put(session_id, run.state)
        if run.row.status not in IN_TURN:
            engine.known.put(run.row)
        if run.row.turn_slot != ACTIVE:
            engine.meter.left(run.row.org_id, session_id)
        return run.row.news is not None
    except Fenced:
        observe_fence(engine, session_id, None if run is None else run.state)
        return False
    except BaseException as error:
        interrupted = is_interruption(error)
        raise
    finally:
        if run is not None:
            _stop_tools(run)
            engine.meter.settle(run.row.org_id, session_id)
            if not finished:
                engine.bus.discard(session_id)
            await settle_rest(run)
        await attempt.close(run, interrupted=interrupted)


async def _step(run: Run) -> bool:
    """Take one action; returns whether there may be another."""
    state = run.ahead
    problem = None
    if run.prepared is not None and (
        is_outdated(run.prepared[0], state) or was_given_up(run.prepared[1], state)
    ):
        run.prepared = None
    if run.prepared is None and _needs_layers(state):
        outage = run.unlogged and run.claimed
        problem = await (
            outlast(run.engine, run.row.id, lambda: _prepare(run, state)) if outage else _prepare(run, state)
        )
    rules = TurnRules(max_iterations=run.engine.policy.max_iterations)
    if run.prepared is not None:
        rules = rules_ahead(run, run.prepared[0].rules, state)
    action = next_action(state, rules, run.engine.clock.now())
    if isinstance(state, Waiting) and may_go_on(run.row, state):
        action = Resume(state)
    if problem is not None and isinstance(action, CallModel | RunTools | AskApproval | AwaitClient):
        action = Fail(action.state, *problem)
    match action:
        case Nothing():
            if isinstance(state, Calling | Waiting):
                return not await run.rest()
            return bool(run.unlogged) and not await run.commit(())
        case StartTurn():
            await _start(run, action)
        case Resume():
            run.unlogged.append(resumed(run.engine, action.state))
            run.prepared = None
        case Finish():
            await run.commit(finish_turn(run, action.state))
            run.prepared = None  # the message that waits for its own turn may choose another model
        case Fail():
            if await run.commit(fail_turn(run, action)):
                # Tools can still be running: a message that arrived meanwhile made the agent resolve again,
                # and that failed.
                _stop_tools(run)
            run.prepared = None
        case ExpireCalls():
            also = in_background(run, action.state, action.calls, withdrawn=action.withdrawn)
            ended = await ended_tasks(run, action.state, action.calls)
            unread = {} if action.withdrawn else await unanswered(run, action.calls)
            await run.commit(expire_calls(run, action, ended, unread), also=also)
        case EndBatch():
            run.unlogged += await end_batch(run, action.state, [])
            run.prepared = None  # as after any batch
        case CallModel() | RunTools() | AskApproval() | AwaitClient():
            await _do_with_layers(run, action)
    return True


def _needs_layers(state: TurnState) -> bool:
    """Whether the next action may depend on the agent's layers."""
    if isinstance(state, Calling):
        return state.batch is not None or not only_waits(state)
    if isinstance(state, Answered):
        return bool(steering(state.pending))
    if isinstance(state, Waiting):
        return False
    return bool(state.pending) if isinstance(state, Idle) else True


def _has_begun(state: TurnState) -> bool:
    """Whether the model was asked in this turn."""
    return not isinstance(state, Idle) and state.turn.llm_calls > 0


async def _prepare(run: Run, ahead: TurnState) -> tuple[str, str] | None:
    """Resolve the agent and choose the model, anew for each model call.

    Args:
        ahead: the run's state ahead; it takes a while to fold.

    Returns:
        None, or the error code and message that the turn fails with.
    """
    engine, row = run.engine, acting(run.row, ahead)
    digest = offered_tools(ahead)
    # A call whose start is in the log is made with the model that is named there.
    begun = ahead.turn if isinstance(ahead, Reasoning) else None

    async def body(tx: Tx) -> tuple[SessionLayers, ModelChoice | None, Content | None, dict[str, str]]:
        controls = next_controls(run.state)
        asked = controls.model_id if controls else None
        model_id = asked if begun is None else begun.requested
        known = await read_call(tx, engine.vault, row, run.row, model_id)
        layers = await load_layers(tx, row, controls.variables if controls else None, known)
        run.standings = known.standings
        # In addition to those known so far: earlier tool output may contain a secret that was replaced since.
        run.redactor.learn(known.secrets)
        choice = await choose_model(
            *(tx, layers, model_id, engine.vault, engine.drivers, engine.fit),
            fallback=fallback_of(ahead, model_id),
            admits=lambda model: begun is not None or admits(engine, model),
            begun=begun is not None,
            known=known,
        )
        offered = None if digest is None else await read_tool_list(tx, row.org_id, row.id, digest)
        return layers, choice, offered, known.secrets

    try:
        layers, choice, offered, secrets = await engine.database.read(body)
        layers = replace(layers, loaded=loaded_after(layers.loaded, run.unlogged))
        agent = await resolve_session(
            layers,
            engine.registry,
            now=engine.clock.now,
            redactor=run.redactor,
            model=choice,
            max_iterations=engine.policy.max_iterations,
            cache=engine.agents,
            offered=offered,
            secrets=secrets,
            private=engine.policy.private_addresses,
        )
    except PerdureError as error:
        if error.retryable:
            raise  # the database is unavailable: the turn did not fail, and is retried
        log.warning("cannot resolve the agent of session %s: %s", row.id, error.message)
        return error.code, error.message
    problem = await _problem_of(run, layers, agent, choice, begun=_has_begun(ahead))
    if choice is None or problem is not None:
        return problem
    run.redactor.known = agent.names
    run.voice = voice_of(run.row, row, layers.layers, ahead)
    run.prepared = (await with_instructions(run, agent), choice)
    return None


async def _problem_of(
    run: Run, layers: SessionLayers, agent: ResolvedAgent, choice: ModelChoice | None, *, begun: bool
) -> tuple[str, str] | None:
    """The error code and message of an agent that cannot work; None if it can, and has a model."""
    stopped = layers.stopped_agent(begun=begun)
    if stopped is not None:
        return "agent_archived", f"The agent {stopped!r} has been archived."
    if agent.missing:
        return "missing_variable", f"There is {missing_message(agent.missing)}."
    if choice is None:
        return "model_not_configured", "No model is configured for this session."
    return await unpriced(run, choice)


async def _start(run: Run, action: StartTurn) -> None:
    """Begin a turn and, in the same append, its first model call."""
    queued = await _queued_message(run, action)
    turn, opening = begin_turn(run, action, queued)
    if run.prepared is None:
        await run.commit(opening)  # the next step fails the turn, with a message for the user
        return
    agent, choice = run.prepared
    if held := await held_back(run, turn):
        await run.commit([*opening, *held])
    elif is_full(run, agent, choice, queued) or for_event(agent.hooks, "before_model"):
        await run.commit(opening)  # the next step compacts the history first, or asks the hooks
    else:
        await _call(run, turn, agent, choice, opening, queued)


async def _queued_message(run: Run, action: StartTurn) -> Message | None:
    """The message that waited for this turn; None if the turn's message did not wait."""
    if action.queued_at is None:
        return None
    after = action.queued_at - 1
    (event,) = await run.engine.database.read(lambda tx: events_after(tx, run.row.id, after, limit=1))
    return event.read(InputMessageData).message


async def _do_with_layers(run: Run, action: CallModel | RunTools | AskApproval | AwaitClient) -> None:
    """Log the start of a step that needs the layers, and execute it; `run.unlogged` gets its events."""
    if run.prepared is None:
        raise AssertionError(f"{type(action).__name__} needs the layers, and they are not resolved")
    agent, choice = run.prepared
    if not isinstance(action, CallModel) and not await vet_calls(run, agent, action.calls):
        return
    match action:
        case CallModel(resumed=True):
            await settle_dead(run)
            if lost := instead_of_resuming(run, choice):
                run.unlogged, run.prepared = lost, None
            elif await run.commit([]):
                run.unlogged = await reopen(run, agent, choice) or await call_model(run, agent, choice)
                run.prepared = None  # a message since the call's start may have chosen another model
        case CallModel(state=state):
            await _begin_call(run, state.turn, agent, choice)
        case RunTools(calls=calls):
            opening = begin_tools(run, agent, action)
            if opening and join_starts(run, agent, calls):
                await run_with_start(run, agent, opening, calls)
            elif await run.commit(opening):
                run.announced.update(call.id for call in calls if not isinstance(call.status, Started))
                run.unlogged = await run_tools(run, agent, tuple(call.id for call in calls))
                if run.unlogged:
                    await _refresh_secrets(run)
            if any(event.get(ActCompletedData) is not None for event in run.unlogged):
                # The layers may have changed while tools ran; the next model call uses the current ones.
                run.prepared = None
        case AskApproval(state=state):
            rules = rules_ahead(run, agent.rules, state)
            await run.commit(request_approvals(run, agent, action, rules))
        case AwaitClient(state=state, calls=calls):
            refusals = await refuse_invalid_calls(run, agent, state, calls)
            await run.commit(refusals or request_results(run, agent, action))


async def _begin_call(run: Run, turn: Turn, agent: ResolvedAgent, choice: ModelChoice) -> None:
    """Make the next model call, or the room for it: the next step then calls the model."""
    if held := await held_back(run, turn):
        await run.commit(held)
        return
    files = await spill_results(run, agent, choice, turn)
    if files is None:
        return  # the log has moved
    if files:
        await run.commit(files)
    elif not await vet_model_call(run, agent, choice):
        return
    elif is_full(run, agent, choice):
        await compact(run, turn, agent, choice, "proactive_budget")
    else:
        await _call(run, turn, agent, choice, [])


async def _call(
    run: Run,
    turn: Turn,
    agent: ResolvedAgent,
    choice: ModelChoice,
    before: list[NewEvent],
    queued: Message | None = None,
) -> None:
    """Make the next model call, or park the turn if its budgets have no money for it.

    Args:
        before: the events that the same append writes before those of the call.
        queued: the message of the turn, if it waited for that: the history does not have it yet.
    """
    while True:
        run.money = None
        if run.standings == ():  # no budget applies, so nothing has to be estimated
            run.standings, money = None, None
        else:
            money = await plan_money(run, choice, expected_input(run, agent, choice, queued))
        if isinstance(money, Refusal):
            events, awaited = parked_by(run, turn, money)
            await run.commit([*before, *events], also=None if awaited is None else awaited.note)
            run.prepared = None
            return
        opening = [*before, *begin_model_call(run, turn, agent, choice)]
        run.money = money  # from now on: if the answer of the append is lost, the run's end releases it
        try:
            begun = await commit_with_tools(run, agent, opening, money)
        except OverBudget:
            continue  # others were faster: plan again
        if begun:
            run.unlogged = await call_model(run, agent, choice)
        else:
            run.money = None
        return


async def _refresh_secrets(run: Run) -> None:
    """Reload the secrets after tools ran: one of them may have written or read a new one."""
    row, vault = run.row, run.engine.vault
    secrets = await outlast(
        run.engine,
        row.id,
        lambda: run.engine.database.read(lambda tx: open_secrets(tx, vault, row.org_id, row.id)),
    )
    run.redactor.learn(secrets)


def _stop_tools(run: Run) -> None:
    for task in run.tools.values():
        task.cancel()
    run.tools.clear()
