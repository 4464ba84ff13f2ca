"""Guardrails of what tools return: the output is checked before it is stored, shown, or written to a file."""

from __future__ import annotations

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from perdure.capabilities.guarding import About, Guard, Masker, Verdict, withheld
from perdure.domain.calls import CallState
from perdure.domain.errors import PerdureError
from perdure.domain.event_data import EventData
from perdure.domain.events import EventContext, NewEvent
from perdure.domain.messages import JsonValue
from perdure.domain.redaction import redact_event
from perdure.domain.times import Micros
from perdure.engine.guarded import CODE
from perdure.engine.tool_outcomes import MAX_ERROR, Failure
from perdure.engine.tool_output import RawOutput, json_of


class CheckedResult(Struct, frozen=True):
    """What came of a call, as it may be stored."""

    call: CallState
    output: RawOutput | None
    failure: Failure | None
    verdict: Verdict | None = None

    @property
    def found(self) -> tuple[EventData, ...]:
        """The data of these events, for a call that is not one of a turn."""
        return tuple(event.data for event in self.events(EventContext(), 0))

    def events(self, context: EventContext, now: Micros) -> list[NewEvent]:
        """What was found, before the event of the result."""
        if self.verdict is None:
            return []
        about = About(context.turn_id, None, self.call.id, self.call.name)
        return self.verdict.events("result", context, now, about)


async def check_result(
    guard: Guard | None, call: CallState, output: RawOutput | None, failure: Failure | None
) -> CheckedResult:
    """Check the output of a call, or its error.

    What a check blocks is withheld, with its images: the call has succeeded nevertheless, and must not be
    repeated.
    """
    if guard is None or not guard.has("tool_output"):
        return CheckedResult(call, output, failure)
    if output is not None:
        verdict = await guard.value("tool_output", _plain(output), call.name)
        if verdict.changed:
            value = verdict.value if verdict.blocked is None else withheld(verdict.blocked)
            text = value if isinstance(value, str) else json_of(value)
            images = output.images if verdict.blocked is None else ()
            output = replace(output, value=value, text=text, images=images)
        return CheckedResult(call, output, failure, verdict)
    if failure is None:
        return CheckedResult(call, output, failure)
    error = failure.error
    if len(error) > MAX_ERROR:  # it was cut, possibly in the middle of a match
        window = guard.rules.window("tool_output")
        error = f"{error[: -4 - window]} ..." if window is not None else withheld_error()
    verdict = await guard.text("tool_output", error, call.name)
    return CheckedResult(call, output, replace(failure, error=_text_of(verdict)), verdict)


def _plain(output: RawOutput) -> JsonValue:
    """The output's value as JSON has it, whatever objects the tool has returned."""
    if isinstance(output.value, str):
        return output.value
    try:
        value: JsonValue = msgspec.json.decode(output.text)
    except RecursionError:  # too deep to be looked at in parts
        return output.text
    return value


def _text_of(verdict: Verdict) -> str:
    text: str = verdict.value if verdict.blocked is None else withheld(verdict.blocked)
    return text


async def checked_error(guard: Guard | None, call: CallState, error: str) -> str:
    """The error of a part of a call, as it may be stored."""
    return error if guard is None else _text_of(await guard.text("tool_output", error, call.name))


async def is_hidden(guard: Guard | None, call: CallState, value: JsonValue) -> bool:
    """Whether the result of a part of a call must not be stored as it is."""
    return guard is not None and (await guard.value("tool_output", value, call.name)).changed


def withheld_error() -> str:
    """What stands for a long error of which the end is missing, where checks need the whole text."""
    return "The tool failed. Its message is withheld: it is too long for the guardrails of this session."


async def check_edited(guard: Guard | None, call: CallState) -> None:
    """Check the arguments that a person has given a call. Raises PerdureError: a check blocks them."""
    if guard is None or not guard.has("tool_use"):
        return
    verdict = await guard.value("tool_use", call.arguments, call.name)
    if verdict.changed:
        reason = next(hit.reason_code for hit in verdict.hits if hit.action in ("block", "replace"))
        raise PerdureError(
            f"This call was not made: a guardrail forbids the changed arguments (reason: {reason}).",
            code=CODE,
        )


def progress_line(guard: Guard, tool_name: str, line: str, cut: bool = False) -> str:
    """A line of progress as it may be shown.

    Where a check needs all of the output, or would take long, no line is shown.

    Args:
        cut: the end of the line is missing, possibly from the middle of a match.
    """
    rules, window = guard.rules, guard.rules.window("tool_output")
    if window is None or not rules.is_quick("tool_output", len(line)):
        return ""
    if cut:
        line = line[: max(len(line) - window, 0)]
    return Masker(rules, "tool_output", tool_name).text(line)


async def masked_event(guard: Guard | None, call: CallState, event: NewEvent) -> NewEvent:
    """An event with what a tool says before it has its result, masked."""
    if guard is None or not guard.has("tool_output"):
        return event
    found, _ = await guard.masked("tool_output", call.name, lambda masker: redact_event(event, masker))
    return found
