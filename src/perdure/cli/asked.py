"""What tools' servers ask people in the middle of calls: shown, and answered at a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.cli.texts import short
from perdure.domain.input_requests import AnswerInput, InputRequest
from perdure.domain.visible import exact

if TYPE_CHECKING:
    from collections.abc import Mapping

    from perdure.cli.terminal import Screen
    from perdure.domain.messages import JsonObject, JsonValue

ADVICE = "Enter waits for it, /answer answers, /decline refuses. Your next message goes on without it."


def asked_lines(request: InputRequest) -> list[str]:
    """Say what a server asks for, and what to do."""
    server, said = exact(request.server), short(request.message, 500)
    match request.mode:
        case "sign_in":
            lines = [f"‖ {exact(request.tool_name)}: {said or f'{server} needs a sign-in'}"]
            lines.append(f"  Run `perdure mcp sign-in {server}` in another terminal, or open {request.url}")
        case "url":
            lines = [f"‖ {exact(request.tool_name)}: {server} asks you to visit {exact(request.url or '')}"]
            lines += [f"  {server} says: {said}"] if said else []
        case _:
            lines = [f"‖ {exact(request.tool_name)}: {server} asks: {said or '(it does not say what)'}"]
            lines += [f"  {exact(name)}{_about(field)}" for name, field in _fields(request)]
    return lines


def answer_to(request: InputRequest, screen: Screen) -> AnswerInput | None:
    """Ask the person at the terminal for the answer to a form or a visit; None for a sign-in.

    Raises:
        EOFError, KeyboardInterrupt: Ctrl-D, Ctrl-C: it is not answered.
    """
    if request.mode == "url":
        done = screen.read_answer(f"  {exact(request.url or '')}: visited? [y]es, [n]o: ").strip().lower()
        return AnswerInput("accept" if done in ("y", "yes") else "decline")
    if request.mode != "form":
        return None
    given = {
        name: screen.read_answer(f"  {exact(name)}{_about(field)}: ").strip()
        for name, field in _fields(request)
    }
    return AnswerInput("accept", content_of(request, {name: text for name, text in given.items() if text}))


def content_of(request: InputRequest, given: Mapping[str, str]) -> JsonObject:
    """Return a form's content from texts, each as its field's type. The server says what does not fit."""
    fields = dict(_fields(request))
    return {name: _value_of(text, fields.get(name, {})) for name, text in given.items()}


def _fields(request: InputRequest) -> list[tuple[str, JsonObject]]:
    found = (request.schema or {}).get("properties")
    fields = found if isinstance(found, dict) else {}
    return [(name, field) for name, field in fields.items() if isinstance(field, dict)]


def _about(field: JsonObject) -> str:
    """The kind of a field's values: what to enter."""
    items = field.get("items")
    choices = (items if isinstance(items, dict) else field).get("enum")
    kind = str(field.get("type", "string"))
    said = [", ".join(map(str, choices))] if isinstance(choices, list) else []
    words = {"string": "", "boolean": "yes or no", "array": "several, separated by commas"}
    said += [words.get(kind, kind)] if words.get(kind, kind) else []
    if isinstance(field.get("default"), str | int | float | bool):
        said.append(f"{field['default']} by default")
    return f" ({short('; '.join(said), 200)})" if said else ""


def _value_of(text: str, field: JsonObject) -> JsonValue:
    """What was entered, as the field's type. The server says if it does not fit."""
    kind = str(field.get("type", "string"))
    if kind == "array":
        return [part.strip() for part in text.split(",") if part.strip()]
    if kind == "boolean":
        return {"y": True, "yes": True, "true": True, "n": False, "no": False, "false": False}.get(
            text.lower(), text
        )
    try:
        if kind in ("integer", "number"):
            return int(text) if kind == "integer" else float(text)
    except ValueError:
        pass
    return text
