"""Typed results: what a model writes as its final answer, while it arrives and when it is complete."""

from __future__ import annotations

import logging
import re

import msgspec
from msgspec import Struct

from perdure.capabilities.arguments import TooCostly
from perdure.domain.events import NewEvent, OutputAcceptedData, OutputRejectedData
from perdure.domain.ids import MessageId
from perdure.domain.messages import JsonValue
from perdure.domain.repair import repair_name, without_fences
from perdure.domain.spans import reason_context
from perdure.domain.times import Micros
from perdure.domain.turn import Reasoning
from perdure.engine.answers import TRUNCATED
from perdure.engine.live import LiveText
from perdure.engine.output_formats import WRAPPER, TypedOutput
from perdure.engine.run import Run
from perdure.llm.answer_json import json_value
from perdure.llm.driver import DeltaKind, ModelResponse

log = logging.getLogger("perdure.outputs")

WHOLE = "answer"
"""What a problem of the whole value calls it."""

MAX_HELD = 1_000
"""Characters that are held back while they may belong to the wrapper."""

MAX_PROBLEM = 500
"""Characters of a problem: one can list all values that are allowed."""

_BEGIN = re.compile(rf'\s*+\{{\s*+"{WRAPPER}"\s*+:\s*+')
_BLANK = re.compile(r"\s+")


class LiveAnswer:
    """Publishes the text of an answer, which is a typed result, without its wrapper.

    The call of the result tool is shown like a text. It takes back what the model wrote before it.
    """

    def __init__(self, live: LiveText, *, wrapped: bool) -> None:
        self._live, self._wrapped = live, wrapped
        self._called, self._held, self._begun = False, "", False
        self._unwraps = wrapped

    def add(self, kind: DeltaKind, text: str) -> None:
        """Add a piece."""
        if kind == "thinking":
            self._live.add("thinking", text)
            return
        if kind == "result" and not self._called:
            self.restart()
            self._live.take_back("text")
            self._called = True
        if (kind == "result") == self._called:
            self._live.add("text", self._unwrapped(text) if self._unwraps else text)

    def restart(self) -> None:
        """Start over, for the next attempt."""
        self._called, self._held, self._begun = False, "", False
        self._unwraps = self._wrapped

    def _unwrapped(self, text: str) -> str:
        text, self._held = self._held + text, ""
        if not self._begun:
            begin = _BEGIN.match(text)
            if begin is None or begin.end() == len(text):
                start = f'{{"{WRAPPER}":'.startswith(_BLANK.sub("", text[:MAX_HELD]))
                if start and len(text) < MAX_HELD:
                    self._held = text
                    return ""
                self._unwraps = begin is not None
                return text
            self._begun, text = True, text[begin.end() :]
        end = len(text.rstrip())
        if text[:end].endswith("}"):
            end -= 1
        if len(text) - end > MAX_HELD:
            return text
        self._held = text[end:]
        return text[:end]


def as_answer(response: ModelResponse, output: TypedOutput) -> ModelResponse:
    """The response with the typed result as its text.

    A call of the result tool becomes the text. Beside other calls it is too early: those are made, and the
    model gives its answer afterwards.
    """
    calls = response.tool_calls
    tool = output.form.tool.name
    results = [call for call in calls if call.name == tool or repair_name(call.name, {tool}) is not None]
    if results:
        others = tuple(call for call in calls if call not in results)
        # Reasoning is bound to the calls that it led to, and the log does not have this one.
        response = msgspec.structs.replace(
            response, tool_calls=others, reasoning_items=(), thinking_signature=None
        )
        if others:
            return response
        finish = TRUNCATED if response.finish_reason == TRUNCATED else "stop"
        text = _text_of(results[0].arguments)
        response = msgspec.structs.replace(response, text=text, finish_reason=finish)
    if not response.tool_calls:
        response = msgspec.structs.replace(response, text=_bare(response.text, wrapped=output.wrapped))
    return response


def _text_of(arguments: JsonValue) -> str:
    if isinstance(arguments, str):
        return arguments or "{"  # the answer was cut before the first of them
    try:
        return msgspec.json.encode(arguments).decode()
    except (OverflowError, UnicodeEncodeError, ValueError):
        return "{}"


def _bare(text: str, *, wrapped: bool) -> str:
    """The answer's JSON without a fence and its wrapper; the text as it is if it is no JSON."""
    fenced = text.lstrip().startswith("```")
    if not (fenced or wrapped):
        return text
    inner = without_fences(text)
    try:
        value = json_value(inner)
    except ValueError:
        return text
    if wrapped and isinstance(value, dict) and value.keys() == {WRAPPER}:
        return _text_of_value(value[WRAPPER])
    return inner if fenced else text


def _text_of_value(value: JsonValue) -> str:
    return msgspec.json.encode(value).decode()


class Verdict(Struct, frozen=True):
    """Whether an answer matches its schema: it has problems, or a value."""

    value: JsonValue = None
    problems: tuple[str, ...] = ()

    def event(self, state: Reasoning, message_id: MessageId, now: Micros) -> NewEvent:
        """The event that records it, directly after those of the answer."""
        turn = state.turn
        data = (
            OutputRejectedData(turn.id, message_id, self.problems, turn.rejected + 1)
            if self.problems
            else OutputAcceptedData(turn.id, message_id, self.value)
        )
        return NewEvent(data, reason_context(turn, state.exec_id), now)


async def judge(run: Run, output: TypedOutput, response: ModelResponse) -> Verdict:
    """Check a final answer against its schema. Costly checks happen in another process."""
    truncated = response.finish_reason == TRUNCATED
    try:
        value = json_value(without_fences(response.text))
    except ValueError as error:
        cut = "; it reached its length limit" if truncated else ""
        return Verdict(problems=(f"{WHOLE}: the text {error}{cut}",))
    if truncated and type(value) in (int, float):
        return Verdict(problems=(f"{WHOLE}: the number may lack digits: the text reached its length limit",))
    owners = (run.row.org_id, run.row.id)
    try:
        problems = await run.engine.arguments.problems(owners, output.schema, value, WHOLE)
    except TooCostly:
        log.warning("an answer could not be checked: its schema costs too much")
        problems = ["the answer could not be checked in time: give a shorter one"]
    if problems is None:
        problems = ["the schema is not valid"]
    # Redact before truncating: half a secret would not be recognized.
    return Verdict(value, tuple(run.redactor.text(problem)[:MAX_PROBLEM] for problem in problems))
