"""The small call of `perdure models test`."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from typing import Any

import msgspec
from msgspec import Struct

from perdure.cli.render import model_trouble
from perdure.cli.terminal import Part, Screen
from perdure.cli.texts import duration, short
from perdure.client import Client, ClientSideTool, data_of, turn_failure
from perdure.domain.errors import PerdureError
from perdure.domain.events import ENDED_TURN, LlmGenerationData, TurnParkedData
from perdure.domain.providers import Model
from perdure.llm.no_tools import accepts_no_tools

TEST_TIMEOUT = 180.0
"""Timeout of a test in seconds, retries included."""

_TOOL = "report_word"
_QUESTION = f"Call the tool {_TOOL} with the word ready. Write nothing else."
_PLAIN_QUESTION = "Answer with the word ready. Write nothing else."


class ModelTest(Struct, frozen=True):
    """The result of one small call.

    Attributes:
        ok: whether the model answered.
        tools: `used`, `not_used` (it answered with text), or `refused` (it cannot be given tools).
        cost_usd: the call's cost by list prices; None if the price is not known.
        error: why the call failed.
    """

    ok: bool
    model_id: str
    name: str
    provider: str
    tools: str | None = None
    latency_ms: int | None = None
    first_token_ms: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    answer: str | None = None
    error: str | None = None


async def call_model(client: Client, model: Model) -> ModelTest:
    """Call the model with a tool, or without one if it accepts none."""
    found = await _call(client, model, with_tool=True)
    if found.error is not None and accepts_no_tools(found.error):
        plain = await _call(client, model, with_tool=False)
        return msgspec.structs.replace(plain, tools="refused") if plain.ok else plain
    return found


async def _call(client: Client, model: Model, *, with_tool: bool) -> ModelTest:
    """Make the call in a session of its own, which is deleted afterwards."""
    parameters = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
    tool = ClientSideTool(_TOOL, "Report the word.", parameters)
    session = await client.create_session(
        title=f"Test of {short(model.model_id)}",
        model_id=model.id,
        harness_name="base",
        tools=(tool,) if with_tool else (),
        max_iterations=1,
    )
    try:
        await client.send_message(session.id, _QUESTION if with_tool else _PLAIN_QUESTION)
        async with asyncio.timeout(TEST_TIMEOUT):
            return await _outcome(client, session.id, model, with_tool=with_tool)
    except TimeoutError:
        return _result(model, error=f"no answer within {TEST_TIMEOUT:.0f} s")
    finally:
        with suppress(PerdureError):
            await client.delete_session(session.id)


async def _outcome(client: Client, session_id: str, model: Model, *, with_tool: bool) -> ModelTest:
    """Follow the session until its model has answered, or the turn has failed."""
    failed = "the call failed"
    events = client.follow(session_id, types=("llm.generation", TurnParkedData.kind, *ENDED_TURN))
    async with aclosing(events):
        async for event in events:
            data = data_of(event)
            if event.type in ENDED_TURN:
                failure = turn_failure(event)
                said = "the turn ended without a call" if failure is None else failure.message
                return _result(model, error=said)
            if event.type == TurnParkedData.kind:
                return _result(model, error=model_trouble(event))
            if data.metadata.model != model.model_id:
                return _result(model, error=f"{failed}; {data.metadata.model} was called instead")
            if data.metadata.success:
                return _answered(model, data, with_tool=with_tool)
            failed = data.metadata.error or failed
    raise AssertionError("unreachable: the stream does not end")


def _answered(model: Model, data: LlmGenerationData, *, with_tool: bool) -> ModelTest:
    facts, usage = data.metadata, data.metadata.usage
    used = any(call.name == _TOOL for call in data.output.tool_calls or ())
    return _result(
        model,
        ok=True,
        tools=None if not with_tool else "used" if used else "not_used",
        latency_ms=facts.duration_ms,
        first_token_ms=facts.time_to_first_token_ms,
        input_tokens=None if usage is None else usage.input_tokens,
        output_tokens=None if usage is None else usage.output_tokens,
        cost_usd=None if usage is None else usage.estimated_cost_usd,
        answer=data.output.text,
    )


def _result(model: Model, *, ok: bool = False, **fields: Any) -> ModelTest:
    return ModelTest(ok, model.id, model.model_id, model.provider_name or "", **fields)


_TOOLS: dict[str | None, Part] = {
    "used": ("called the tool that it was asked to call", "green"),
    "not_used": ("answered with text instead of calling the tool", "yellow"),
    "refused": ("accepts no tools: use it for agents without tools", "red"),
}


def print_test(screen: Screen, found: ModelTest) -> None:
    """Write the result for a person."""
    place = f" ({found.provider})" if found.provider else ""
    if not found.ok:
        screen.line(("failed", "red"), f": {found.name}{place}: {found.error}")
        return
    first = f", first token after {duration(found.first_token_ms)}" if found.first_token_ms else ""
    screen.line(("ok", "green"), f": {found.name}{place} answered in {duration(found.latency_ms)}{first}")
    if found.input_tokens is not None:
        screen.line(f"  tokens: {found.input_tokens} in, {found.output_tokens} out")
    cost = "not known" if found.cost_usd is None else f"${found.cost_usd:.6f}"
    screen.line(f"  cost:   {cost}")
    screen.line("  tools:  ", _TOOLS[found.tools])
