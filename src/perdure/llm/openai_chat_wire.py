"""Encode messages for Chat Completions: user and assistant in turns, results directly after their calls.

Servers differ in what they refuse. What all accept is sent to all. The rest is in `Form`: the server's host
or the model's name, an option, or an earlier refusal says that this server needs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
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
    text_of,
)
from perdure.llm.dialects import CHAT_TYPES
from perdure.llm.driver import ToolSpec
from perdure.llm.file_parts import SOUND_FORMATS, file_data
from perdure.llm.wire import (
    ACKNOWLEDGED,
    CONTINUE,
    NO_CONTENT,
    NO_RESULT,
    Fragment,
    argument_object,
    calls_of,
    dumps,
    image_url,
    parameters_of,
    plain_id,
    plain_name,
    refuse_files,
    result_content,
    result_fragment,
    short_id,
    unpacked,
)

PROVIDER_TYPE = "openai_completions"

MAX_CALL_ID = 40
"""OpenAI accepts call ids of up to 40 characters. Other servers have their own formats and expect the same id
back."""

NO_THINKING = "(no reasoning was recorded)"
"""Stands for reasoning that is not there, for servers that want some with every tool call."""

NO_REASONING, KNOWN_REASONING, REASONING_WITH_CALLS, REASONING_ALWAYS = range(4)

_USER = b'{"role":"user","content":'


class Form(Struct, frozen=True):
    """How a server wants its messages.

    Attributes:
        model: the model, which gets back its own signatures.
        provider_type: the provider's type, which gets back its own reasoning.
        blocks: the field in which signed reasoning goes back as it came; empty for none.
        takes_turns: a user message must not follow tool results directly.
        short_ids: call ids have nine letters and digits.
        textless_calls: a message with calls has no text.
        reasoning: which of the model's messages have their reasoning: none, those with calls whose reasoning
            is known, all with calls, or all.
        signatures: whether to send back what the model's server attached to its calls.
        system_role: whether system messages in the middle are allowed.
    """

    model: str
    provider_type: str = PROVIDER_TYPE
    blocks: str = ""
    takes_turns: bool = False
    short_ids: bool = False
    textless_calls: bool = False
    reasoning: int = NO_REASONING
    signatures: bool = True
    system_role: bool = False

    def variant(self) -> str:
        """Name everything that affects the bytes, for the cache."""
        flags = (self.takes_turns, self.short_ids, self.textless_calls, self.signatures, self.system_role)
        head = f"chat/{self.provider_type}/{self.model}/{self.blocks}/{self.reasoning}"
        return head + "".join("-+"[flag] for flag in flags)


def fragment(message: Message, form: Form) -> Fragment:
    """Encode a message. Raises: ModelError: an image cannot be sent."""
    refuse_files(message.content)
    if message.role == "agent":
        return _assistant(message, form)
    if message.role == "tool_result" and any(isinstance(part, ToolResultPart) for part in message.content):
        return _results(message, form)
    if message.role == "system":
        text = text_of(message.content).strip()
        if not text:
            return Fragment("system", b"")
        if form.system_role:
            return Fragment("system", dumps({"role": "system", "content": text}))
        # Most chat templates know one system message, at the top. A later one keeps its position as user text
        # in a tag that names its author.
        return user_fragment(f"<system>\n{text}\n</system>")
    return user_fragment(_content(message.content))


def user_fragment(content: str | list[JsonObject]) -> Fragment:
    """Encode a user message."""
    return Fragment("user", _user(content))


def _user(content: str | list[JsonObject]) -> bytes:
    return _USER + dumps(content) + b"}"


def _assistant(message: Message, form: Form) -> Fragment:
    """Encode an answer; one without text and calls becomes an empty fragment, which is not sent."""
    calls, text = calls_of(message), text_of(message.content)
    if not text.strip() or (calls and form.textless_calls):
        text = ""
    if not text and not calls:
        return Fragment("assistant", b"")
    value: JsonObject = {"role": "assistant", "content": text or None}
    kept = unpacked(message, form.provider_type, form.model) if form.signatures else []
    blocks = [block.item["block"] for block in kept if block.item.get("type") == form.blocks]
    if blocks:
        value[form.blocks] = blocks
    if calls:
        extras = {
            block.item["tool_call_id"]: block.item["extra_content"]
            for block in kept
            if block.item.get("type") == "extra_content"
        }
        value["tool_calls"] = [_call(part, extras, form) for part in calls]
    if form.reasoning and (calls or form.reasoning == REASONING_ALWAYS):
        own = message.thinking if message.reasoning_provider in {None, *CHAT_TYPES} else None
        if own and own.strip():
            value["reasoning_content"] = own
        elif form.reasoning != KNOWN_REASONING:
            value["reasoning_content"] = NO_THINKING
    return Fragment("assistant", dumps(value), calls=tuple(part.id for part in calls))


def _call(part: ToolCallPart, extras: JsonObject, form: Form) -> JsonObject:
    call: JsonObject = {
        "id": _wire_id(part.id, form),
        "type": "function",
        "function": {
            "name": plain_name(part.name),
            "arguments": dumps(argument_object(part.arguments)).decode(),
        },
    }
    if part.id in extras:
        call["extra_content"] = extras[part.id]
    return call


def _wire_id(call_id: ToolCallId, form: Form) -> str:
    if form.short_ids:
        return short_id(call_id)
    if 0 < len(call_id) <= MAX_CALL_ID and call_id.isascii() and call_id.isprintable() and " " not in call_id:
        return call_id
    return plain_id(call_id, MAX_CALL_ID)


def _results(message: Message, form: Form) -> Fragment:
    """Encode tool results.

    `tool` messages hold only text, so a tool's images follow in a user message after all results.
    """
    values: list[tuple[ToolCallId, bytes]] = []
    extra: list[ContentPart] = [part for part in message.content if isinstance(part, TextPart | ImagePart)]
    for part in message.content:
        if isinstance(part, ToolResultPart):
            text, images = result_content(part)
            values.append((part.tool_call_id, dumps(_tool(part.tool_call_id, text, form))))
            extra += images
    return result_fragment(values, _user(_content(extra)) if extra else b"")


def _content(content: Sequence[ContentPart]) -> str | list[JsonObject]:
    """Encode parts; text alone is one string, because some servers take no list."""
    if len(content) == 1 and isinstance(content[0], TextPart):
        return content[0].text if content[0].text.strip() else NO_CONTENT
    parts = [
        part
        for part in content
        if isinstance(part, ImagePart | FilePart) or (isinstance(part, TextPart) and part.text.strip())
    ]
    if not parts:
        return NO_CONTENT
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    if len(texts) == len(parts):
        return "\n\n".join(texts)
    return [_part(part) for part in parts]


def _part(part: TextPart | ImagePart | FilePart) -> JsonObject:
    match part:
        case TextPart():
            return {"type": "text", "text": part.text}
        case ImagePart():
            return {"type": "image_url", "image_url": {"url": image_url(part)}}
    name, kind, data = file_data(part)
    if kind in SOUND_FORMATS:
        return {"type": "input_audio", "input_audio": {"data": data, "format": SOUND_FORMATS[kind]}}
    return {"type": "file", "file": {"filename": name, "file_data": f"data:{kind};base64,{data}"}}


def missing(call_id: ToolCallId, form: Form) -> Fragment:
    """Make an error result for a call whose result is missing in the history."""
    return Fragment("user", dumps(_tool(call_id, f"Error: {NO_RESULT}", form)), answers=(call_id,))


def _tool(call_id: ToolCallId, text: str, form: Form) -> JsonObject:
    content = text if text.strip() else NO_CONTENT
    return {"role": "tool", "tool_call_id": _wire_id(call_id, form), "content": content}


def turns(fragments: Iterable[Fragment], form: Form) -> list[bytes]:
    """Return the messages, with adjacent ones of one author merged.

    The conversation begins and ends as chat templates require: with a user message, and not with an answer.
    """
    out: list[bytes] = []
    last = ""
    for part in fragments:
        data = part.data
        if not data:
            continue
        kind = "tool" if part.answers else part.role
        if kind != last:
            if not last and kind == "assistant":
                out.append(_user(NO_CONTENT))
            elif last == "tool" and kind == "user" and form.takes_turns:
                out.append(dumps({"role": "assistant", "content": ACKNOWLEDGED}))
            last = kind
        elif kind == "user":
            data = _joined_users(out.pop(), data)
        elif kind == "assistant":
            data = _joined_answers(out.pop(), data)
        out.append(data)
    if last == "assistant" or not out:
        out.append(_user(CONTINUE))
    return out


def _joined_users(first: bytes, second: bytes) -> bytes:
    """Join the contents of two user messages: two strings to one, anything else to a list of parts."""
    left, right = first[len(_USER) : -1], second[len(_USER) : -1]
    if left[:1] == right[:1] == b'"':
        return _USER + left[:-1] + b"\\n\\n" + right[1:] + b"}"
    return b"%b[%b,%b]}" % (_USER, _parts(left), _parts(right))


def _parts(content: bytes) -> bytes:
    return content[1:-1] if content[:1] == b"[" else b'{"type":"text","text":%b}' % content


def _joined_answers(first: bytes, second: bytes) -> bytes:
    left, right = msgspec.json.decode(first), msgspec.json.decode(second)
    joined = {**left, **right}
    for field in left.keys() & right.keys():
        if isinstance(left[field], list) and isinstance(right[field], list):
            joined[field] = left[field] + right[field]
    for field in ("content", "reasoning_content"):
        texts = [value[field] for value in (left, right) if value.get(field)]
        if texts or field == "content":
            joined[field] = "\n\n".join(texts) or None
    return dumps(joined)


def encoded_tools(tools: Sequence[ToolSpec]) -> bytes:
    """Encode the tool list."""
    return dumps(
        [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": parameters_of(tool),
                },
            }
            for tool in tools
        ]
    )
