"""Encode messages for Gemini: contents of the user and the model, made of parts.

A part may have a thought signature. It goes back on the same part, exactly as it came, to the model that made
it. Gemini 3 refuses a step of tool calls without one, so calls of other models get the vendor's placeholder.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urlsplit

from msgspec import Struct

from perdure.domain.ids import ToolCallId
from perdure.domain.messages import (
    ContentPart,
    FilePart,
    ImagePart,
    JsonObject,
    Message,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from perdure.llm.driver import ToolSpec
from perdure.llm.file_parts import file_data
from perdure.llm.wire import (
    CONTINUE,
    NO_CONTENT,
    NO_RESULT,
    Fragment,
    argument_object,
    calls_of,
    dumps,
    image_data,
    in_blocks,
    parameters_of,
    plain_id,
    plain_name,
    result_content,
    result_fragment,
    unpacked,
)

PROVIDER_TYPE = "gemini"

SIGNATURE = "thoughtSignature"
PLACEHOLDER = "skip_thought_signature_validator"
"""The signature that the vendor documents for calls that another model made."""

_TYPES = {"audio/mpeg": "audio/mp3"}
"""What the vendor calls media types for which it has a name of its own."""


class Form(Struct, frozen=True):
    """How the messages are sent.

    Attributes:
        model: the model, which gets back its own signatures; None leaves all of them out.
        placeholders: whether calls without a signature get the placeholder.
        ids: whether calls and results have ids.
    """

    model: str | None
    placeholders: bool = False
    ids: bool = True

    def variant(self) -> str:
        """Name everything that affects the bytes, for the cache."""
        return f"gemini/{self.model or ''}/{self.placeholders:d}{self.ids:d}"


def fragment(message: Message, form: Form) -> Fragment:
    """Encode a message as parts. Raises: ModelError: an image or a file cannot be sent."""
    return in_blocks(
        message,
        text=lambda text: {"text": text},
        answer=lambda each: _assistant(each, form),
        results=_results,
        content=_given,
    )


def _joined(parts: Iterable[JsonObject]) -> bytes:
    return b",".join(map(dumps, parts))


def _assistant(message: Message, form: Form) -> Fragment:
    """Encode an answer; one without text and calls becomes an empty fragment, which is not sent."""
    calls, text = calls_of(message), "".join(p.text for p in message.content if isinstance(p, TextPart))
    if not calls and not text.strip():
        return Fragment("assistant", b"")
    kept = [] if form.model is None else unpacked(message, PROVIDER_TYPE, form.model)
    signatures = {
        block.item["tool_call_id"]: block.item[SIGNATURE] for block in kept if "tool_call_id" in block.item
    }
    if form.placeholders and calls and not any(call.id in signatures for call in calls):
        signatures[calls[0].id] = PLACEHOLDER
    encoded = [_call(call, signatures.get(call.id), form) for call in calls]
    parts: list[JsonObject] = []
    at = called = 0
    for block in kept:
        if "tool_call_id" in block.item:
            continue
        start = max(block.chars - block.item.get("chars", 0), at)
        parts += _plain(text[at:start])
        parts += encoded[called : block.calls]
        at, called = max(block.chars, at), max(block.calls, called)
        whole = block.item.get("part")
        parts.append(whole or {"text": text[start:at], SIGNATURE: block.item.get(SIGNATURE)})
    parts += _plain(text[at:])
    parts += encoded[called:]
    return Fragment("assistant", _joined(parts), calls=tuple(call.id for call in calls))


def _plain(text: str) -> list[JsonObject]:
    return [{"text": text}] if text.strip() else []


def function_name(name: str) -> str:
    """Make a tool's name acceptable to Gemini, whose names begin with a letter or an underscore."""
    name = plain_name(name)
    return name if name[0].isalpha() or name[0] == "_" else f"_{name}"[:64]


def _call(part: ToolCallPart, signature: str | None, form: Form) -> JsonObject:
    call: JsonObject = {"name": function_name(part.name), "args": argument_object(part.arguments)}
    if form.ids:
        call["id"] = plain_id(part.id)
    return {"functionCall": call} | ({} if signature is None else {SIGNATURE: signature})


def _results(message: Message, results: list[ToolResultPart]) -> Fragment:
    """Encode results without the names of their functions, which only the calls have; see `contents`."""
    values: list[tuple[ToolCallId, bytes]] = []
    extra = _given(message.content)
    for part in results:
        text, images = result_content(part)
        values.append((part.tool_call_id, _response(text, failed=part.error is not None)))
        extra += _given(images)
    return result_fragment(values, _joined(extra))


def _response(text: str, *, failed: bool) -> bytes:
    text = text if text.strip() else NO_CONTENT
    return dumps({"error": text.removeprefix("Error: ")} if failed else {"output": text})


def missing(call_id: ToolCallId) -> Fragment:
    """Make an error result for a call whose result is missing in the history."""
    return Fragment("user", _response(NO_RESULT, failed=True), answers=(call_id,))


def _given(parts: Sequence[ContentPart]) -> list[JsonObject]:
    out: list[JsonObject] = []
    for part in parts:
        if isinstance(part, TextPart):
            out += _plain(part.text)
        elif isinstance(part, FilePart):
            _, kind, data = file_data(part)
            out.append(_inline(_TYPES.get(kind, kind), data))
        elif isinstance(part, ImagePart):
            inline = image_data(part)
            if inline is not None:
                out.append(_inline(*inline))
            else:
                url = part.url or ""
                kind = part.media_type or mimetypes.guess_type(urlsplit(url).path)[0] or "image/jpeg"
                out.append({"fileData": {"mimeType": kind, "fileUri": url}})
    return out


def _inline(kind: str, data: str) -> JsonObject:
    return {"inlineData": {"mimeType": kind, "data": data}}


def names_of(messages: Iterable[Message]) -> dict[str, str]:
    """Return the function's name for each call id."""
    return {
        part.id: function_name(part.name)
        for message in messages
        if message.role == "agent"
        for part in calls_of(message)
    }


def contents(fragments: Sequence[Fragment], names: Mapping[str, str], form: Form) -> bytes:
    """Merge adjacent fragments of one author into contents, and name the functions of results.

    Results are a content of their own, directly after that of their calls. The conversation begins and ends
    with the user: a placeholder is added where it would not.
    """
    groups: list[tuple[str, list[bytes]]] = []
    for part in fragments:
        if not part.data:
            continue
        kind = "results" if part.answers else "model" if part.role == "assistant" else "user"
        data = _named(part, names, form) if part.answers else part.data
        if not groups and kind == "model":
            groups.append(("user", [dumps({"text": NO_CONTENT})]))
        if groups and groups[-1][0] == kind:
            groups[-1][1].append(data)
        else:
            groups.append((kind, [data]))
    if not groups or groups[-1][0] == "model":
        groups.append(("user", [dumps({"text": CONTINUE})]))
    return b",".join(
        b'{"role":"%b","parts":[%b]}' % (b"model" if kind == "model" else b"user", b",".join(parts))
        for kind, parts in groups
    )


def _named(part: Fragment, names: Mapping[str, str], form: Form) -> bytes:
    head: JsonObject = {"name": names.get(part.answers[0], "unknown")}
    if form.ids:
        head["id"] = plain_id(part.answers[0])
    return b'{"functionResponse":%b,"response":%b}}' % (dumps(head)[:-1], part.data)


def encoded_tools(tools: Sequence[ToolSpec]) -> bytes:
    """Encode the tool list."""
    declarations = [
        {"name": tool.name, "description": tool.description, "parametersJsonSchema": parameters_of(tool)}
        for tool in tools
    ]
    return dumps([{"functionDeclarations": declarations}])
