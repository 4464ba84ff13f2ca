"""Print a turn's events for a person at a terminal."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec
from rich.cells import cell_len

from perdure.cli.task_lines import STYLES, begins, changed, task_text
from perdure.cli.texts import duration, exact_value, short
from perdure.client import data_of, turn_failure
from perdure.domain.events import ToolCall, WireEvent
from perdure.domain.messages import Message, TextPart, ToolCallPart, text_of
from perdure.domain.parked import deadline_of
from perdure.domain.tasks import text_of_message
from perdure.domain.times import from_rfc3339, to_rfc3339
from perdure.domain.tools import APPROVE, ApprovalQuestion
from perdure.domain.visible import exact, visible

if TYPE_CHECKING:
    from rich.status import Status

    from perdure.cli.terminal import Screen

_UNSETTLED = "\r\u200c\u200d"
"""Characters whose meaning depends on the next one."""

QUESTION_LIMIT = 2000
"""Characters of a call that a question shows at first."""


def question_of(call: ToolCall) -> ApprovalQuestion:
    """Return what an approval request asks about."""
    return msgspec.convert(call.arguments, ApprovalQuestion)


def question_text(call: ToolCall, limit: int | None = QUESTION_LIMIT) -> str:
    """Format the question whether the held call may run, with exactly what would run."""
    question = question_of(call)
    return f"allow {exact(question.tool_name)} to run? {exact_value(question.arguments, limit)}"


def narrations(request: WireEvent) -> list[str]:
    """Return what the server says about the questions of a `tool.call_requested`, beyond the calls.

    A question that says only which tool it is about is left out.
    """
    said = [each.narration for each in data_of(request).tool_summaries or () if each.name == APPROVE]
    return [text for text in said if text and not text.endswith(" run?")]


def outcome(message: Message) -> str:
    """Format a message as one line: its author, its text, its tool calls, the number of other parts."""
    calls = [part.name for part in message.content if isinstance(part, ToolCallPart)]
    others = sum(not isinstance(part, TextPart | ToolCallPart) for part in message.content)
    notes = [f"calls {name}" for name in calls] + ([f"{others} more part(s)"] if others else [])
    author = [] if message.author is None else [f"{message.author.agent_name}:"]
    text = short(text_of(message.content), 160)
    return " ".join([*author, text, *(f"[{note}]" for note in notes)]).strip()


def brief(event: WireEvent) -> str:
    """Summarize an event in one short line."""
    data = data_of(event)
    match event.type:
        case "input.message" | "output.message.completed":
            return outcome(data.message)
        case "output.message.delta" | "reason.thinking.delta" | "tool.output.delta":
            return short(data.delta)
        case "tool.started":
            return f"{exact(data.tool_call.name)} {exact_value(data.tool_call.arguments, 400)}"
        case "tool.completed":
            took = duration(data.duration_ms)
            return f"{data.tool_name} {data.status} {took} {short(data.error or '')}".strip()
        case "tool.call_requested":
            calls = data.tool_calls
            return ", ".join(
                question_text(call) if call.name == APPROVE else exact(call.name) for call in calls
            )
        case "tool.parked":
            return parked_text(event)
        case "session.handed_off":
            return f"to {data.to_agent_name} {short(data.reason or '')}".strip()
        case "reason.fallback" | "turn.parked" | "output.message.withdrawn":
            return model_trouble(event)
        case "output.message.replaced" | "guardrail.hit":
            return guardrail_text(event)
        case "tool.step":
            return f"{data.tool_name} {exact(data.name)} {data.status} {short(data.error or '')}".strip()
        case "tool.verified":
            return f"{data.tool_name} {data.outcome}"
        case "turn.completed":
            return f"{data.iterations} model call(s), {duration(data.duration_ms)}"
        case "llm.generation":
            usage = data.metadata.usage
            tokens = "" if usage is None else f"{usage.input_tokens} in, {usage.output_tokens} out, "
            return f"{data.metadata.model} {tokens}{duration(data.metadata.duration_ms)}"
        case "message.feedback":
            return f"{data.rating or 'none'} {data.message_id} {short(data.comment or '')}".strip()
        case "file.written":
            return f"{data.path} {data.size_bytes} bytes"
        case "task.created" | "task.updated":
            return task_text(data.task)
        case "task.message.sent" | "task.message.received":
            return short(text_of_message(data.message), 160)
    failure = turn_failure(event)
    return "" if failure is None else f"{short(failure.message)} ({failure.code})"


_WAITS_FOR = {
    "child": "what it has begun",
    "sign_in": "a sign-in",
    "question": "an answer",
    "input": "an answer to its server's question",
}
_LIMITED = {
    "rate_limit": "rate limit: the provider asks to wait",
    "active_turns": "limit of active turns: it waits for others to end",
    "tokens_per_minute": "limit of tokens per minute: it waits",
    "budget": "paused by a budget",
    "reservation": "other model calls hold the rest of a budget",
}


def model_trouble(event: WireEvent) -> str:
    """Say what becomes of a model call that was not answered."""
    data = data_of(event)
    match event.type:
        case "reason.fallback":
            skipped = "".join(
                f" (not {exact(each.model.model)}: {short(each.error)})" for each in data.skipped
            )
            said = f"{exact(data.from_.model)} does not answer: {short(data.error)}"
            return f"{said} → {exact(data.to.model)}{skipped}"
        case "turn.parked":
            return f"{limit_text(data.parked_kind)} until {data.until}: {short(data.error, 300)}"
    return "the text above is withdrawn"


def limit_text(kind: str) -> str:
    """Say which limit a parked turn waits for."""
    return _LIMITED.get(kind, f"limit: {kind}")


def guardrail_text(event: WireEvent) -> str:
    """Say which guardrail has found something, and what it did."""
    data = data_of(event)
    why = f"the guardrail {data.guardrail_id} ({data.reason_code})"
    if event.type == "output.message.replaced":
        return f"the answer is replaced by {why}"
    return f"{why}: {data.action} {data.tool_name or data.part}"


def waits_for(kind: str) -> str:
    """Say what a parked call of this kind waits for."""
    return _WAITS_FOR.get(kind, f"a {kind}")


def parked_text(event: WireEvent) -> str:
    """Say what a parked call waits for, and until when."""
    data = data_of(event)
    until = to_rfc3339(deadline_of(from_rfc3339(event.ts), data.timeout_ms))
    why = f": {short(data.message)}" if data.message else ""
    what = waits_for(data.parked_kind)
    where = f" (open {exact(data.sign_in_url)})" if data.sign_in_url else ""
    for asked in data.input_requests:
        if asked.mode != "sign_in":
            visit = f": visit {exact(asked.url)} only if you trust it" if asked.url else ""
            where += f" (input request {asked.id}{visit})"
    return f"{data.tool_name} waits for {what} until {until}{why}{where}"


class Flow:
    """Lays out streamed text: indents it, and wraps it between words at the width, if there is one.

    A word that may continue in the next piece is buffered until its end is known.
    """

    def __init__(self, indent: str, width: int | None) -> None:
        self._indent = indent
        self._width = width
        self._unfinished = ""
        self._column = 0
        self._space = ""

    def feed(self, piece: str) -> str:
        """Add a piece; return what can be printed now."""
        *ready, self._unfinished = re.split(r"(\s+)", self._unfinished + piece)
        return "".join(map(self._wrapped, ready))

    def end(self) -> str:
        """Return the rest; the next piece starts a new line."""
        rest = self._wrapped(self._unfinished)
        self._unfinished, self._column, self._space = "", 0, ""
        return rest

    def _wrapped(self, token: str) -> str:
        if not token:
            return ""
        if token.isspace():
            lines = token.count("\n")
            self._column = 0 if lines else self._column
            self._space = token.rpartition("\n")[2]
            return "\n" * lines
        size = cell_len(token)
        if (
            self._width is not None
            and self._column > 0
            and self._column + len(self._space) + size > self._width
        ):
            output = f"\n{self._indent}{token}"
            self._column = len(self._indent) + size
        else:
            output = f"{'' if self._column else self._indent}{self._space}{token}"
            self._column += cell_len(output)
        self._space = ""
        return output


class TurnPrinter:
    """Prints events as they arrive: text as it streams, thinking dimmed, tools with arguments and results.

    Deltas contain the whole text so far, so a lost or repeated delta makes no difference. A text that starts
    over (because the model call was retried) starts on a new line.
    """

    def __init__(self, screen: Screen, *, indent: str = "") -> None:
        self._screen = screen
        self._indent = indent
        width = screen.width
        self._flow = Flow(indent, width)
        # The columns left for a tool's arguments or result, beside its name and duration.
        self._room = 100 if width is None else max(width - len(indent) - 36, 20)
        self._status: Status | None = None
        self._key = ""
        self._text = ""
        self._style = ""
        self._thought = False
        self._line_open = False
        self._told: dict[str, str | None] = {}
        """What was said last of each task: later events may say the same again."""

    def wait(self, label: str = "thinking") -> None:
        """Show a spinner until there is something to print. Terminals only."""
        if self._status is None and not self._line_open:
            self._status = self._screen.status(label)
            if self._status is not None:
                self._status.start()

    def note(self, text: str, style: str = "dim") -> None:
        """Print a line of the program's own."""
        self._end_line()
        self._screen.line((f"{self._indent}{text}", style))

    def close(self) -> None:
        """End the open line; the printer can continue afterwards."""
        self._end_line()
        self._key = self._text = ""

    def show(self, event: WireEvent) -> None:
        """Print an event if it matters to a person; most print nothing."""
        data = data_of(event)
        match event.type:
            case "reason.started":
                self._thought = False
                self.wait()
            case "reason.thinking.delta":
                self._thought = True
                self._stream(f"thinking/{data.message_id}", data.accumulated, "dim italic")
            case "reason.thinking.completed":
                if not self._thought:  # no delta arrived
                    self._stream("thinking", data.thinking, "dim italic", settled=True)
            case "output.message.delta":
                self._stream(data.message_id or data.turn_id, data.accumulated, "")
            case "output.message.completed":
                if data.error_code is None:
                    self._stream(data.message.id, text_of(data.message.content), "", settled=True)
                self.close()
            case "tool.started":
                self.note(f"→ {self._call(data.tool_call.name, data.tool_call.arguments)}", "cyan")
                self.wait(data.tool_call.name)
            case "tool.completed" if data.tool_name != APPROVE:
                self._tool_completed(data)
            case "tool.parked":
                self.note(f"‖ {parked_text(event)}", "yellow")
            case "reason.fallback" | "turn.parked":
                self.note(f"‖ {model_trouble(event)}", "yellow")
            case "output.message.withdrawn" if self._line_open:
                self.note(f"‖ {model_trouble(event)}", "yellow")
            case "output.message.replaced":
                self.note(f"‖ {guardrail_text(event)}", "yellow")
            case "guardrail.hit" if data.part == "result" and data.action != "log":
                self.note(f"‖ {guardrail_text(event)}", "yellow")
            case "session.handed_off":
                self.note(f"→ handed off to the agent {data.to_agent_name}", "cyan")
            case "turn.started" if data.speaker is not None:
                self.note(f"→ the agent {data.speaker.agent_name} answers", "cyan")
            case "task.created":
                self.note(begins(data.task), "cyan")
            case "task.updated" if (told := changed(data.task)) != self._told.get(data.task.id):
                self._told[data.task.id] = told
                if told is not None:
                    self.note(told, STYLES[data.task.state])
            case "tool.progress":
                self.note(f"  {data.tool_name}: {short(data.message)}")
            case "tool.call_requested":
                for call in data.tool_calls:
                    if call.name != APPROVE:
                        self.note(f"→ client-side tool: {self._call(call.name, call.arguments)}", "yellow")
            case "turn.cancelled":
                self.note("cancelled", "yellow")
            case _:
                failure = turn_failure(event)
                if failure is not None:
                    self.note(f"✗ {failure.message} ({failure.code})", "red")

    def _call(self, name: str, arguments: object) -> str:
        return f"{exact(name)} {exact_value(arguments, self._room)}"

    def _tool_completed(self, data: Any) -> None:
        took = duration(data.duration_ms)
        if data.success:
            parts = data.result or ()
            result = short(
                text_of(parts) if all(isinstance(part, TextPart) for part in parts) else parts, self._room
            )
            self.note(f"← {data.tool_name} {result} {f'({took})' if took else ''}".rstrip(), "green")
        else:
            self.note(f"← {data.tool_name} {data.status}: {short(data.error or '')}", "red")

    def _stream(self, key: str, whole: str, style: str, *, settled: bool = False) -> None:
        if not settled:
            whole = whole.rstrip(_UNSETTLED)
        if key != self._key or not whole.startswith(self._text):
            self._end_line()
            if key == self._key:
                self.note("(the model starts over)")
            self._key, self._text, self._style = key, "", style
        seen = len(self._text)
        piece, self._text = whole[seen:], whole
        if piece:
            self._stop_waiting()
            # The character before decides how the first one is shown.
            before = whole[seen - 1 : seen] if seen else ""
            self._write(self._flow.feed(visible(before + piece)[len(visible(before)) :]))
            self._line_open = True

    def _write(self, text: str) -> None:
        if text:
            self._screen.line((text, self._style), end="")

    def _end_line(self) -> None:
        self._stop_waiting()
        if self._line_open:
            self._write(self._flow.end())
            self._screen.line()
            self._line_open = False

    def _stop_waiting(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None
