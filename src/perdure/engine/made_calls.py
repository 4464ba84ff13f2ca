"""The tool calls of an answer before they enter the log: limited, repaired, and checked."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from perdure.capabilities.guarding import Guard
from perdure.capabilities.resolve import ResolvedAgent
from perdure.domain.events import NewEvent, ToolCallRepairedData
from perdure.domain.ids import ToolCallId
from perdure.domain.messages import JsonObject, ToolCallPart
from perdure.domain.repair import LONGEST, fit_arguments, repair_arguments, repair_name
from perdure.domain.times import Micros
from perdure.engine.answers import TRUNCATED
from perdure.engine.call_limit import cut_calls
from perdure.engine.guarded import CheckedCalls, Writing, check_calls
from perdure.engine.run import Run
from perdure.engine.secret_arguments import redact_secret_arguments
from perdure.llm.driver import ModelResponse


class MadeCalls(Struct, frozen=True):
    """The calls of an answer.

    Attributes:
        made: how many the model made.
        repairs: an event for each repaired one.
    """

    made: int
    checked: CheckedCalls
    repairs: list[NewEvent]


async def made_calls(
    run: Run, agent: ResolvedAgent, guard: Guard | None, response: ModelResponse, writing: Writing
) -> MadeCalls:
    """Repair and check the calls of an answer."""
    now = run.engine.clock.now()
    parts = _with_distinct_ids(cut_calls(response).tool_calls)
    truncated = response.finish_reason == TRUNCATED
    calls, repairs = _repair_calls(agent, parts, writing, now, truncated=truncated)
    if guard is not None and guard.rules.remote("tool_use"):
        redact_secret_arguments(run, agent, calls)  # services must not get what the redactor learns here
    checked = await check_calls(guard, calls, agent.names, writing, now)
    return MadeCalls(len(response.tool_calls), checked, repairs)


def _repair_calls(
    agent: ResolvedAgent, parts: tuple[ToolCallPart, ...], writing: Writing, now: Micros, *, truncated: bool
) -> tuple[tuple[ToolCallPart, ...], list[NewEvent]]:
    """Repair small mistakes in the tool calls; returns all calls, and an event for each repaired one.

    The arguments of a truncated answer are not repaired: they are not wrong, but incomplete.
    """
    if not agent.behaviour.repair_tool_calls:
        return parts, []
    known = {*agent.bound, *agent.client}
    left = LONGEST
    calls: list[ToolCallPart] = []
    events: list[NewEvent] = []
    for part in parts:
        name = repair_name(part.name, known)
        broken = isinstance(part.arguments, str) and not truncated
        arguments = None
        if broken and len(part.arguments) <= left:
            left -= len(part.arguments)
            arguments = repair_arguments(part.arguments)
        parsed = part.arguments if arguments is None else arguments
        if (
            isinstance(parsed, dict)
            and (fitted := fit_arguments(parsed, _parameters(agent, name or part.name))) != parsed
        ):
            arguments = fitted
        repaired = msgspec.structs.replace(
            part, name=name or part.name, arguments=part.arguments if arguments is None else arguments
        )
        calls.append(repaired)
        if repaired != part:
            outcome = "name" if arguments is None else "arguments" if name is None else "name_and_arguments"
            data = ToolCallRepairedData(part.id, repaired.name, writing.turn_id, outcome)
            events.append(NewEvent(data, writing.context, now))
    return tuple(calls), events


def _parameters(agent: ResolvedAgent, name: str) -> JsonObject:
    """The JSON Schema of a server or client tool's arguments; an empty one if there is no such tool."""
    if name in agent.bound:
        return agent.bound[name].tool.parameters
    return agent.client[name].parameters if name in agent.client else {}


def _with_distinct_ids(calls: tuple[ToolCallPart, ...]) -> tuple[ToolCallPart, ...]:
    """The calls with distinct ids, because results are matched by id."""
    seen: set[str] = set()
    distinct = []
    for index, call in enumerate(calls):
        identity = call.id or ToolCallId(f"call_{index}")
        while identity in seen:
            identity = ToolCallId(f"{identity}_{index}")
        seen.add(identity)
        distinct.append(call if identity == call.id else msgspec.structs.replace(call, id=identity))
    return tuple(distinct)
