"""A second, independent implementation of the prompt that a model call has to receive."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from perdure.domain.derived_messages import correction_message
from perdure.domain.events import Event
from perdure.domain.messages import Message, ToolResultPart, text_of, tool_calls_of

Key = tuple[str, ...]


def key_of(message: Message) -> Key:
    """The identity of a message; that of a result is its call and its outcome."""
    if message.role == "tool_result":
        part = message.content[0]
        assert isinstance(part, ToolResultPart)
        return ("result", part.tool_call_id, str(part.result), str(part.error)[:40])
    return (message.role, message.id)


def expected_prompt(log: Sequence[Event], through: int, after: int = 0) -> list[Key]:
    """The messages that a model call sees that began at the sequence `through`.

    A user message comes before the answers of model calls that began after it; one that waited for its own
    turn comes with the turn's start. Results follow their answer, in the order of its calls. Messages whose
    position is `after` or earlier are left out.
    """
    begun: dict[str, int] = {}
    results: dict[tuple[str, str], Key] = {}
    edited: dict[tuple[str, str], str] = {}
    positions: list[tuple[int, Message]] = []
    execution = ""
    for event in log[:through]:
        match event.type:
            case "reason.started":
                execution = event.context_struct().exec_id or ""
                begun[execution] = event.sequence
            case "turn.started" if event.decoded().message is not None:
                positions.append((event.sequence, event.decoded().message))
            case "input.message" if not event.decoded().queued:
                positions.append((event.sequence, event.decoded().message))
            case "output.message.completed" if event.decoded().error_code is None:
                own = event.context_struct().exec_id or ""
                positions.append((begun.get(own, event.sequence), event.decoded().message))
            case "output.rejected":
                positions.append((event.sequence, correction_message(event.decoded(), event.ts)))
            case "tool.completed":
                data = event.decoded()
                result = None if data.result is None else text_of(data.result)
                if data.decided is not None and data.decided.arguments is not None:
                    edited[execution, data.tool_call_id.removeprefix("approve_")] = (
                        "[The user changed the arguments of this call before it ran. It ran with: "
                        f"{json.dumps(data.decided.arguments, separators=(',', ':'))}]\n"
                    )
                note = edited.get((execution, data.tool_call_id))
                error = data.error
                if note is not None and error is None:
                    result = f"{note}{result or ''}"
                elif note is not None:
                    error = f"{error}\n{note.rstrip()}"
                results[execution, data.tool_call_id] = (
                    "result",
                    data.tool_call_id,
                    str(result),
                    str(error)[:40],
                )
    execution_at = {sequence: name for name, sequence in begun.items()}
    expected: list[Key] = []
    for position, message in sorted(positions, key=lambda pair: pair[0]):
        if position <= after:
            continue
        expected.append(key_of(message))
        for call in tool_calls_of(message):
            missing = ("result", call.id, "None", "This call did not finish: the turn ended")
            expected.append(results.get((execution_at.get(position, ""), call.id), missing))
    return expected


def disorder(messages: Sequence[Message]) -> Iterator[str]:
    """What a vendor would reject: an agent message at the start, at the end or after another one; a call that
    is not followed by its result."""
    due: list[str] = []
    last = ""
    for message in messages:
        if message.role == "tool_result":
            if not due or key_of(message)[1] != due.pop(0):
                yield "a result out of order"
        elif due or (message.role == "agent" and last in {"", "agent"}):
            yield f"a {message.role} message after {last or 'nothing'}"
        due += [call.id for call in tool_calls_of(message)]
        last = message.role
    if due or last not in {"user", "tool_result", "system"}:
        yield f"a {last} message at the end"
