"""Guardrails in a turn: what the model wrote and the calls that it makes, before they are stored."""

from __future__ import annotations

import asyncio

from msgspec import Struct
from msgspec.structs import replace

from perdure.capabilities.guard_services import Asker
from perdure.capabilities.guarding import About, Guard, Masker, Verdict, hit_data, replacement_of
from perdure.capabilities.resolve import ResolvedAgent
from perdure.domain.errors import ModelError
from perdure.domain.events import (
    EventContext,
    GuardrailHitData,
    NewEvent,
    OutputMessageReplacedData,
)
from perdure.domain.guardrail_checks import GUARDRAILS
from perdure.domain.guardrails import BLOCKED, REPLACED, Hit, replaced
from perdure.domain.ids import MessageId, ToolCallId, TurnId
from perdure.domain.messages import MAX_TEXT, JsonValue, ToolCallPart, storable
from perdure.domain.times import Micros
from perdure.engine.judge_money import pay_of
from perdure.engine.run import Run
from perdure.llm.answer_json import json_value
from perdure.llm.driver import ModelResponse
from perdure.store.database import Tx
from perdure.store.providers import UsableModel
from perdure.store.rows import to_json

CALLS_AT_ONCE = 8
"""Tool calls of one answer that are checked at the same time."""

CODE = "guardrail_blocked"
"""The error code of a call that a check has blocked."""

MAX_SAID = 500
"""Characters of the message of a `ModelError`."""

_OPAQUE = frozenset({"encrypted_content", "signature", "data", "id"})
"""Fields of reasoning blocks that nobody but the vendor can read."""


def guard_of(run: Run, agent: ResolvedAgent) -> Guard | None:
    """The agent's guardrails, whose judges the session's budgets pay for; None if it has none."""
    if not agent.guardrails:
        return None
    model = agent.model

    async def own(tx: Tx) -> UsableModel | None:
        return model

    asker = Asker(own, run.voice.agent_id, pay_of(run))
    return Guard(agent.guardrails, run.engine.guard, run.row.org_id, asker, run.redactor)


class CheckedAnswer(Struct, frozen=True):
    """An answer as it may be stored and shown.

    Attributes:
        events: what was found, before the answer's own events.
        replaced: whether it is not the model's answer any more.
    """

    response: ModelResponse
    events: tuple[NewEvent, ...] = ()
    replaced: bool = False


class Writing(Struct, frozen=True):
    """The message that is checked.

    Attributes:
        typed: whether its text is JSON.
        clean: how many characters at the beginning of its text and of its thinking were searched already.
    """

    turn_id: TurnId
    message_id: MessageId
    context: EventContext
    typed: bool
    clean: tuple[int, int] = (0, 0)


async def check_answer(
    guard: Guard | None, response: ModelResponse, writing: Writing, now: Micros, early: Hit | None = None
) -> CheckedAnswer:
    """Check the text and the thinking of an answer.

    A blocked text takes the whole answer with it: its tool calls are not made, and its thinking is dropped.
    A blocked thinking is dropped alone. Reasoning that is sent back to the vendor must not change, so it is
    dropped with any change of what it belongs to.

    Args:
        early: a hit in a part of the text that is cut off by now.
    """
    if guard is None or not guard.has("output"):
        return CheckedAnswer(response)
    about = About(writing.turn_id, writing.message_id)
    text, thinking, kept = await asyncio.gather(
        _checked_text(guard, response, writing),
        guard.text("output", response.thinking or "", clean=writing.clean[1]),
        _may_keep_reasoning(guard, response),
    )
    context = writing.context
    events = [*thinking.events("thinking", context, now, about), *text.events("text", context, now, about)]
    blocked = text.blocked or early
    if blocked is not None:
        if text.blocked is None:
            events.append(NewEvent(hit_data(blocked, "text", about=about), context, now))
        replacement = replacement_of(blocked, BLOCKED)
        data = OutputMessageReplacedData(
            writing.turn_id,
            GUARDRAILS,
            blocked.check_id,
            blocked.reason_code,
            replacement,
            writing.message_id,
        )
        events.append(NewEvent(data, context, now))
        return CheckedAnswer(_replaced(response, replacement), tuple(events), replaced=True)
    if text.changed:
        # An empty answer would count as one that failed.
        shown = text.value if text.value.strip() or response.tool_calls else BLOCKED
        response = replace(response, text=shown)
    if thinking.changed:
        response = replace(response, thinking=None if thinking.blocked else thinking.value or None)
    if text.changed or thinking.changed or not kept:
        response = replace(response, reasoning_items=(), thinking_signature=None)
    return CheckedAnswer(response, tuple(events))


async def before_cut(guard: Guard | None, response: ModelResponse) -> tuple[ModelResponse, Hit | None]:
    """Check what is too long to be stored, before it is cut: half of a match would not be found any more.

    Returns:
        Also the hit that blocks the text.
    """
    longest = max(len(response.text), len(response.thinking or ""))
    if guard is None or longest <= MAX_TEXT or not guard.has("output"):
        return response, None
    text, thinking = storable(response.text), storable(response.thinking or "")
    hits, of_thinking = await guard.scan("output", text), await guard.scan("output", thinking)
    response = replace(response, text=replaced(text, hits))
    if any(hit.action != "log" for hit in of_thinking):
        response = replace(response, thinking=None, reasoning_items=(), thinking_signature=None)
    return response, next((hit for hit in hits if hit.action == "block"), None)


def checked_failure(guard: Guard | None, error: ModelError | None) -> ModelError | None:
    """Why a model call failed, without what the local checks find: a server may quote what it wrote."""
    if guard is None or error is None or not guard.has("output"):
        return error
    said, window = error.message, guard.rules.window("output")
    if not guard.rules.is_quick("output", len(said)):
        window, said = None, said.ljust(MAX_SAID)
    if window is None or len(said) >= MAX_SAID:  # no half of a match must stay at the end of a long one
        said = f"{said[: MAX_SAID - window]} ..." if window is not None else "The message is withheld."
    text = Masker(guard.rules, "output").text(said)
    if text == error.message:
        return error
    return error.saying(text)


async def checked_summary(guard: Guard | None, text: str) -> str:
    """A text that the model wrote for itself, without what the checks find; empty if all of it is blocked."""
    if guard is None or not guard.has("output"):
        return text
    hits = await guard.scan("output", text)
    text = replaced(text, [mask_instead(hit) for hit in hits if hit.action != "log"])
    verdict = await guard.text("output", text)
    return "" if verdict.blocked is not None else str(verdict.value)


def mask_instead(hit: Hit) -> Hit:
    """The hit of a check that blocks, as one that masks what it found."""
    return replace(hit, action="replace", replacement=REPLACED) if hit.action != "replace" else hit


def _replaced(response: ModelResponse, replacement: str) -> ModelResponse:
    """The answer of which nothing is left."""
    filtered = response.finish_reason == "content_filter"
    return ModelResponse(
        replacement,
        usage=response.usage,
        finish_reason=response.finish_reason if filtered else "stop",
        response_id=response.response_id,
        model=response.model,
    )


async def _checked_text(guard: Guard, response: ModelResponse, writing: Writing) -> Verdict:
    """Check a text; one that is JSON as the value that it means, because JSON can escape any character."""
    text, typed = response.text, writing.typed and not response.tool_calls
    value: JsonValue = text
    if typed:
        try:
            value = json_value(text)
        except ValueError:
            typed = False
    if not typed or isinstance(value, str | int | float | None):
        return await guard.text("output", text, clean=writing.clean[0])
    verdict = await guard.value("output", value)
    return replace(verdict, value=to_json(verdict.value) if verdict.changed else text)


async def _may_keep_reasoning(guard: Guard, response: ModelResponse) -> bool:
    """Whether the reasoning blocks have nothing to hide that `thinking` does not have."""
    texts = "\n".join(_readable(list(response.reasoning_items)))
    if not texts or texts == response.thinking:
        return True
    local = await guard.scan("output", texts)
    return not any(hit.action != "log" for hit in local)


def _readable(value: JsonValue) -> list[str]:
    found: list[str] = []
    waiting: list[JsonValue] = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            found.append(each)
        elif isinstance(each, dict):
            waiting += [inner for name, inner in each.items() if name not in _OPAQUE]
        elif isinstance(each, list | tuple):
            waiting += each
    return found


class CheckedCalls(Struct, frozen=True):
    """The calls of an answer as they may be stored.

    Attributes:
        errors: by call, why it must not run.
        generations: the model calls of judges: before the answer's events.
        hits: what was found: after the answer's events.
    """

    calls: tuple[ToolCallPart, ...]
    errors: dict[ToolCallId, str] = {}
    generations: tuple[NewEvent, ...] = ()
    hits: tuple[NewEvent, ...] = ()


async def check_calls(
    guard: Guard | None,
    calls: tuple[ToolCallPart, ...],
    known: frozenset[str],
    writing: Writing,
    now: Micros,
) -> CheckedCalls:
    """Check the tool calls of an answer.

    What a check blocks is withheld: the call keeps its place, without its arguments, and gets an error.

    Args:
        known: the names of the agent's tools. Another name is a text of the model, and checked like one.
    """
    if guard is None or not guard.has("tool_use") or not calls:
        return CheckedCalls(calls)
    room = asyncio.Semaphore(CALLS_AT_ONCE)

    async def one(call: ToolCallPart) -> tuple[Verdict, bool]:
        async with room:
            if call.name not in known:
                name = await guard.text("tool_use", call.name)
                if name.changed:
                    return replace(name, blocked=next(hit for hit in name.hits if hit.action != "log")), False
            return await guard.value("tool_use", call.arguments, call.name), True

    verdicts = await asyncio.gather(*map(one, calls))
    checked: list[ToolCallPart] = []
    errors: dict[ToolCallId, str] = {}
    generations: list[NewEvent] = []
    hits: list[NewEvent] = []
    for call, (verdict, named) in zip(calls, verdicts, strict=True):
        kept = call if named else replace(call, name="unknown_tool")
        about = About(writing.turn_id, writing.message_id, call.id, kept.name)
        for event in verdict.events("call", writing.context, now, about):
            (hits if isinstance(event.data, GuardrailHitData) else generations).append(event)
        if verdict.blocked is not None:
            errors[call.id] = blocked_error(verdict.blocked)
            kept = replace(kept, arguments=_withheld(call.arguments, verdict.blocked))
        elif verdict.changed:
            kept = replace(kept, arguments=verdict.value)
        checked.append(kept)
    return CheckedCalls(tuple(checked), errors, tuple(generations), tuple(hits))


def _withheld(arguments: JsonValue, hit: Hit) -> JsonValue:
    """What stands for arguments that are blocked. Text stays text: it says that the answer was cut."""
    mark = f"[withheld by a guardrail: {hit.reason_code}]"
    return mark if isinstance(arguments, str) else {"withheld": mark}


def blocked_error(hit: Hit) -> str:
    """What the model is told about a call that a check has blocked."""
    return (
        f"This call was not made: a guardrail forbids it (reason: {hit.reason_code}). Its arguments are "
        "withheld. Do not try it in another way; go on without it, or say that you cannot."
    )
