"""Decides about calls and steps whose outcome is unknown: their runner died, or they broke in the middle.

A tool that can look the outcome up is asked before anything is sent again (promise P10). "Not done" counts
only once the old request has timed out: until then it may still arrive.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable
from typing import get_args

from perdure.capabilities.containment import contain
from perdure.capabilities.port import Tool, ToolContext
from perdure.domain.calls import CallState
from perdure.domain.effects import UNCERTAIN, UNKNOWN, Outcome, Verified, effects_under
from perdure.domain.errors import OutcomeUnknown
from perdure.domain.events import ToolVerifiedData
from perdure.domain.messages import JsonObject
from perdure.domain.steps import Started, Step
from perdure.domain.times import Micros
from perdure.engine.run import Run
from perdure.engine.site import Site
from perdure.engine.tool_output import json_of

log = logging.getLogger("perdure.act")

VERIFY_TIMEOUT = 10.0
"""Seconds in which a tool has to say whether a call took effect."""

SKEW = 300.0
"""Seconds by which the clocks of two machines may differ, or one clock may jump."""

INTERRUPTED = f"This call was interrupted: the server stopped while it ran. {UNCERTAIN}"


class Interrupted(OutcomeUnknown):
    """A runner that died had started the call, or a step of it, which must not run twice (promise P5)."""


async def settle(run: Run, tool: Tool | None, call: CallState, context: ToolContext) -> Verified | None:
    """Decide about a call that a runner that died had started.

    Returns:
        What the tool found out, if the call is done; None if the call may run.

    Raises:
        Interrupted: it must not run, because nobody knows whether it took effect.
    """
    status = call.status
    if not isinstance(status, Started) or status.replayable:
        return None
    if status.can_continue and tool is not None:
        return None
    if tool is None or tool.verify is None:
        raise Interrupted(_interrupted(status.steps))
    verify, arguments = tool.verify, _arguments_of(run, call)
    found = await ask_until_late(
        run, call.name, lambda: verify(context, arguments), status.began_at, tool.timeout
    )
    outcome = ToolVerifiedData(call.id, call.name, found.outcome, context.effect_key)
    if not await run.log_at_once(call.id, outcome, progress=False) or found.outcome == "unknown":
        raise Interrupted(_interrupted(status.steps))
    return found if found.outcome == "done" else None


async def look_up(run: Run, tool: Tool | None, call: CallState, context: ToolContext) -> Verified:
    """Ask the tool once about a call that broke in the middle: whether it is done in spite of that."""
    if tool is None or tool.verify is None:
        return UNKNOWN
    verify, arguments = tool.verify, _arguments_of(run, call)
    return await _ask(run, call.name, lambda: verify(context, arguments))


async def ask_until_late(
    run: Site, name: str, verify: Callable[[], Awaitable[Verified]], began_at: Micros, timeout: float
) -> Verified:
    """Ask whether an effect took place; if it did not yet, ask again once its request has timed out.

    The request was sent by another process: unless that is long ago, its clock is not compared with this one,
    and the whole timeout is waited for.

    Args:
        began_at: when the request was sent at the earliest; timeout: its timeout in seconds.
    """
    found = await _ask(run, name, verify)
    left = min(timeout, timeout + SKEW - (run.engine.clock.now() - began_at) / 1e6)
    if found.outcome != "not_done" or left <= 0:
        return found
    await run.engine.clock.sleep(left)
    return await _ask(run, name, verify)


async def _ask(run: Site, name: str, verify: Callable[[], Awaitable[Verified]]) -> Verified:
    """Ask once. A tool that fails or hangs does not know."""
    try:
        with effects_under(None):  # it changes nothing, and its requests must not be taken for the call's
            found: object = await contain(verify, VERIFY_TIMEOUT, f"the verification of {name}")
        if isinstance(found, Verified):
            json_of(found.value)  # a value that is no JSON cannot be the call's result
    except TimeoutError:
        log.warning("the tool %s did not verify a call within %g seconds", name, VERIFY_TIMEOUT)
        return UNKNOWN
    except Exception:  # noqa: BLE001 (a bug in a tool fails the call, not the turn)
        log.error("the tool %s cannot verify a call\n%s", name, run.redactor.text(traceback.format_exc()))  # noqa: TRY400
        return UNKNOWN
    if not isinstance(found, Verified):
        log.error("the tool %s verified a call with a %s, not with Verified", name, type(found).__name__)
        return UNKNOWN
    if found.outcome not in get_args(Outcome):  # taken for "not done", it would have the call run twice
        log.error("the tool %s verified a call with an unknown outcome: %.100r", name, found.outcome)
        return UNKNOWN
    return found


def _arguments_of(run: Run, call: CallState) -> JsonObject:
    """The arguments as the tool received them; redacted if only the log has them."""
    written = run.arguments_of(call)
    return written if isinstance(written, dict) else {}


def _interrupted(steps: tuple[Step, ...]) -> str:
    """The error for the model; names the steps, because they tell how far the call got."""
    done = [step.name for step in steps if step.ended]
    begun = [step.name for step in steps if not step.ended]
    parts = [
        f"{what}: {', '.join(names)}."
        for what, names in (("Steps that are done", done), ("Steps that had begun", begun))
        if names
    ]
    return " ".join([INTERRUPTED, *parts])
