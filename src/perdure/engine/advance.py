"""The loop: ask what is next, say so in the log, do it, and again, until the session is idle or parked."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from perdure.capabilities.resolve import (
    ModelChoice,
    SessionLayers,
    choose_model,
    load_layers,
    resolve_session,
)
from perdure.domain.actions import (
    AskApproval,
    AwaitClient,
    CallModel,
    ExpireCalls,
    Fail,
    Finish,
    Nothing,
    RunTools,
    StartTurn,
    TurnRules,
    next_action,
)
from perdure.domain.errors import Fenced, PerdureError, Unavailable
from perdure.domain.events import ActCompletedData
from perdure.domain.ids import SessionId
from perdure.domain.turn import Answered, Idle, Started, TurnState
from perdure.engine.compact import compact, is_full
from perdure.engine.context import Engine
from perdure.engine.model_call import call_model
from perdure.engine.run import Run, open_run
from perdure.engine.tool_calls import refuse_misfits, run_tools
from perdure.engine.turn_events import (
    begin_model_call,
    begin_tools,
    begin_turn,
    expire_calls,
    fail_turn,
    finish_turn,
    request_approvals,
    request_results,
    seal_turn,
)
from perdure.store.database import Tx
from perdure.store.sessions import release
from perdure.store.storage import open_secrets

log = logging.getLogger("perdure.engine")


async def advance(engine: Engine, session_id: SessionId) -> None:
    """Take the session as far as it goes.

    Returns quietly when somebody else has it, or there is nothing to do.
    """
    run: Run | None = None
    finished, blameless = False, False
    try:
        run = await open_run(engine, session_id)
        if run is None:
            return
        await _give_up_if_stuck(run)
        while await _step(run):
            pass
        finished = True
    except Fenced:
        log.debug("session %s was taken over", session_id)
    except (Unavailable, asyncio.CancelledError):
        blameless = True
        raise
    finally:
        if run is not None:
            await _let_go(run, finished, blameless)


async def _give_up_if_stuck(run: Run) -> None:
    """Seal a turn that was taken up again and again while its log did not move."""
    if run.row.recoveries > run.engine.policy.max_recoveries:
        while not isinstance(run.state, Idle) and not await run.commit(seal_turn(run, run.state)):
            pass


async def _step(run: Run) -> bool:
    """One action; whether there may be another."""
    state = run.ahead
    trouble = None if run.prepared is not None or not _needs_layers(state) else await _prepare(run)
    rules = (
        run.prepared[0].rules if run.prepared else TurnRules(max_iterations=run.engine.policy.max_iterations)
    )
    action = next_action(state, rules, run.engine.clock.now())
    if trouble is not None and isinstance(action, CallModel | RunTools | AskApproval | AwaitClient):
        action = Fail(action.state, *trouble)
    match action:
        case Nothing():
            return bool(run.facts) and not await run.commit(())
        case StartTurn():
            await _start(run, action)
        case Finish():
            await run.commit(finish_turn(run, action.state))
        case Fail():
            if await run.commit(fail_turn(run, action)):
                # A message that came while they ran had the layers assembled afresh, and they cannot be.
                _stop_tools(run)
            run.prepared = None
        case ExpireCalls():
            await run.commit(expire_calls(run, action))
        case CallModel() | RunTools() | AskApproval() | AwaitClient():
            await _work(run, action)
    return True


def _needs_layers(state: TurnState) -> bool:
    return bool(state.pending) if isinstance(state, Idle | Answered) else True


async def _prepare(run: Run) -> tuple[str, str] | None:
    """Resolve the agent and choose the model, afresh for each model call.

    Trouble fails the turn, in words: its code and message.
    """
    engine, row = run.engine, run.row

    async def body(tx: Tx) -> tuple[SessionLayers, ModelChoice | None]:
        found = await load_layers(tx, row)
        # As well as those from before: what tools gave meanwhile may hold one that has been replaced since.
        run.redactor.learn(await open_secrets(tx, engine.vault, row.org_id, row.id))
        controls = run.state.controls
        wanted = controls.model_id if controls else None
        return found, await choose_model(tx, found, wanted, engine.vault, engine.drivers)

    try:
        found, choice = await engine.database.read(body)
        agent = await resolve_session(
            found,
            engine.registry,
            now=engine.clock.now,
            redactor=run.redactor,
            model=choice,
            max_iterations=engine.policy.max_iterations,
        )
    except PerdureError as error:
        if error.retryable:
            raise  # the database is away: no fault of the turn, which is taken up again
        log.warning("session %s cannot be assembled: %s", row.id, error.message)
        return error.code, error.message
    if found.archived_agent is not None:
        return "agent_archived", f"The agent {found.archived_agent!r} has been archived."
    if choice is None:
        return "model_not_configured", "No model is configured for this session."
    run.redactor.known = frozenset((*agent.bound, *agent.client))
    run.prepared = (agent, choice)
    return None


async def _start(run: Run, action: StartTurn) -> None:
    """Begin a turn and, in the same append, its first model call."""
    turn, opening = begin_turn(run, action)
    if run.prepared is None:
        await run.commit(opening)  # the next step fails the turn, in words
        return
    agent, choice = run.prepared
    if is_full(run, agent, choice):
        await run.commit(opening)  # the next step makes room for the call
    elif await run.commit(opening + begin_model_call(run, turn, choice)):
        run.facts = await call_model(run, agent, choice)


async def _work(run: Run, action: CallModel | RunTools | AskApproval | AwaitClient) -> None:
    """A step that needs the layers: announce it, do it, keep what came of it as facts."""
    if run.prepared is None:
        raise AssertionError("a step that needs the layers was reached without them")
    agent, choice = run.prepared
    match action:
        case CallModel(state=state, resumed=resumed):
            if not resumed and is_full(run, agent, choice):
                await compact(run, state.turn, agent, choice, "proactive_budget")
            elif await run.commit([] if resumed else begin_model_call(run, state.turn, choice)):
                run.facts = await call_model(run, agent, choice)
        case RunTools(calls=calls):
            if await run.commit(begin_tools(run, agent, action)):
                run.fresh.update(call.id for call in calls if not isinstance(call.status, Started))
                run.facts = await run_tools(run, agent, tuple(call.id for call in calls))
                await _look_for_secrets(run)
                if run.facts[-1].get(ActCompletedData) is not None:
                    # The layers may have changed while tools ran: the next model call sees them as they are.
                    run.prepared = None
        case AskApproval():
            await run.commit(request_approvals(run, agent, action))
        case AwaitClient(state=state, calls=calls):
            refused = refuse_misfits(run, agent, state, calls)
            await run.commit(refused or request_results(run, agent, action))


async def _look_for_secrets(run: Run) -> None:
    """Know the secrets as they are after the tools ran: one of them may have written, or read, a new one."""
    row, vault = run.row, run.engine.vault
    secrets = await run.engine.database.read(lambda tx: open_secrets(tx, vault, row.org_id, row.id))
    run.redactor.learn(secrets)


async def _let_go(run: Run, finished: bool, blameless: bool) -> None:
    run.engine.leases.pop(run.row.id, None)
    _stop_tools(run)
    if finished:
        run.engine.histories.keep(run.row.id, run.conversation)
        return
    if run.claimed and blameless:
        # A planned stop, or a database that went away, is no failed recovery of the turn. If this is lost
        # too, only the count of recoveries is one higher.
        row = run.row
        with contextlib.suppress(PerdureError, asyncio.CancelledError):
            await run.engine.database.write(lambda tx: release(tx, row))


def _stop_tools(run: Run) -> None:
    for task in run.tools.values():
        task.cancel()
    run.tools.clear()
