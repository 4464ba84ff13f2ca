"""What a model call has to be shown, written down once more and independently of the code that builds it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from perdure.domain.events import Event
from perdure.domain.messages import Message, ToolResultPart, text_of, tool_calls_of

Key = tuple[str, ...]


def key_of(message: Message) -> Key:
    """What tells messages apart: results by their call and their outcome."""
    if message.role == "tool_result":
        part = message.content[0]
        assert isinstance(part, ToolResultPart)
        return ("result", part.tool_call_id, str(part.result), str(part.error)[:40])
    return (message.role, message.id)


def expected_prompt(log: Sequence[Event], through: int, after: int = 0) -> list[Key]:
    """What a model call begun at this sequence sees.

    Every message at the place where the conversation had got to.

    A message of the user comes before the answers to model calls that began after it; results follow their
    answer, in the order of its calls. What has its place up to `after` is left out.
    """
    begun: dict[str, int] = {}
    results: dict[tuple[str, str], Key] = {}
    placed: list[tuple[int, Message]] = []
    execution = ""
    for event in log[:through]:
        match event.type:
            case "reason.started":
                execution = event.context_struct().exec_id or ""
                begun[execution] = event.sequence
            case "input.message":
                placed.append((event.sequence, event.decoded().message))
            case "output.message.completed" if event.decoded().error_code is None:
                own = event.context_struct().exec_id or ""
                placed.append((begun.get(own, event.sequence), event.decoded().message))
            case "tool.completed":
                data = event.decoded()
                result = None if data.result is None else text_of(data.result)
                results[execution, data.tool_call_id] = (
                    "result",
                    data.tool_call_id,
                    str(result),
                    str(data.error)[:40],
                )
    execution_at = {sequence: name for name, sequence in begun.items()}
    expected: list[Key] = []
    for place, message in sorted(placed, key=lambda pair: pair[0]):
        if place <= after:
            continue
        expected.append(key_of(message))
        for call in tool_calls_of(message):
            missing = ("result", call.id, "None", "This call did not finish: the turn ended")
            expected.append(results.get((execution_at.get(place, ""), call.id), missing))
    return expected


def disorder(messages: Sequence[Message]) -> Iterator[str]:
    """What a vendor would refuse: an agent that begins, ends or follows itself.

    A call without its result right behind it.
    """
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
    if due or last not in {"user", "tool_result"}:
        yield f"a {last} message at the end"
