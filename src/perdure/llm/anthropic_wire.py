"""Encode messages for Anthropic: content blocks in strictly alternating user and assistant turns."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from perdure.domain.ids import ToolCallId
from perdure.domain.messages import (
    ContentPart,
    ImagePart,
    JsonObject,
    Message,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from perdure.llm.driver import ToolSpec
from perdure.llm.wire import (
    CONTINUE,
    NO_CONTENT,
    NO_RESULT,
    Fragment,
    argument_object,
    dumps,
    image_data,
    parameters_of,
    plain_id,
    plain_name,
    refuse_files,
    result_content,
    result_fragment,
    unpacked,
    woven,
)

PROVIDER_TYPE = "anthropic"
_MARK = b',"cache_control":{"type":"ephemeral"}}'
_THOUGHTS = frozenset({"thinking", "redacted_thinking"})


def fragment(message: Message, model: str | None) -> Fragment:
    """Encode a message as content blocks.

    Args:
        message: the message.
        model: keep the reasoning that this model made; None leaves all reasoning out.

    Raises:
        ModelError: an image cannot be sent.
    """
    refuse_files(message.content)
    if message.role == "agent":
        return _assistant(message, model)
    results = [part for part in message.content if isinstance(part, ToolResultPart)]
    if message.role == "tool_result" and results:
        return _results(message, results)
    if message.role == "system":
        # The protocol has one system prompt, at the top. A later system message keeps its position as user
        # text in a tag that names its author.
        text = "".join(part.text for part in message.content if isinstance(part, TextPart)).strip()
        return Fragment("system", dumps(_text(f"<system>\n{text}\n</system>")))
    blocks = _text_and_images(message.content) or [_text(NO_CONTENT)]
    return Fragment("user", b",".join(dumps(block) for block in blocks))


def _assistant(message: Message, model: str | None) -> Fragment:
    pieces = woven(message, [] if model is None else unpacked(message, PROVIDER_TYPE, model))
    blocks: list[JsonObject] = []
    for piece in pieces:
        if isinstance(piece, str):
            # The vendor rejects blank text, and blank space at the end of the last text.
            if piece.strip():
                blocks.append(_text(piece))
        elif isinstance(piece, ToolCallPart):
            call = {
                "id": plain_id(piece.id),
                "name": plain_name(piece.name, 128),
                "input": argument_object(piece.arguments),
            }
            blocks.append({"type": "tool_use", **call})
        else:
            blocks.append(piece)
    while blocks and blocks[-1].get("type") in _THOUGHTS:
        blocks.pop()
    return Fragment(
        "assistant",
        b",".join(dumps(block) for block in blocks),
        calls=tuple(piece.id for piece in pieces if isinstance(piece, ToolCallPart)),
        thinks=bool(blocks) and blocks[0].get("type") in _THOUGHTS,
    )


def _results(message: Message, results: list[ToolResultPart]) -> Fragment:
    extra = _text_and_images(message.content)
    values: list[tuple[ToolCallId, bytes]] = []
    for part in results:
        text, images = result_content(part)
        if part.error is not None:
            # The protocol has a flag for errors, so the text needs no prefix.
            text = text.removeprefix("Error: ")
        block = _result(part.tool_call_id, text, is_error=part.error is not None)
        # Content besides the results is sent with the first result.
        if images or extra:
            block["content"] = ([_text(text)] if text.strip() else []) + _text_and_images(images) + extra
            extra = []
        values.append((part.tool_call_id, dumps(block)))
    return result_fragment(values)


def _result(call_id: ToolCallId, text: str, *, is_error: bool) -> JsonObject:
    block: JsonObject = {"type": "tool_result", "tool_use_id": plain_id(call_id)}
    if text.strip():
        block["content"] = text
    if is_error:
        block |= {"is_error": True, "content": text if text.strip() else "error"}
    return block


def missing(call_id: ToolCallId) -> Fragment:
    """Make an error result for a call whose result is missing in the history."""
    return Fragment("user", dumps(_result(call_id, NO_RESULT, is_error=True)), answers=(call_id,))


def _text(text: str) -> JsonObject:
    return {"type": "text", "text": text}


def _text_and_images(parts: Sequence[ContentPart]) -> list[JsonObject]:
    blocks: list[JsonObject] = []
    for part in parts:
        if isinstance(part, TextPart) and part.text.strip():
            blocks.append(_text(part.text))
        elif isinstance(part, ImagePart):
            inline = image_data(part)
            source: JsonObject = (
                {"type": "url", "url": part.url}
                if inline is None
                else {"type": "base64", "media_type": inline[0], "data": inline[1]}
            )
            blocks.append({"type": "image", "source": source})
    return blocks


def turns(fragments: Sequence[Fragment]) -> bytes:
    """Merge adjacent fragments of one role into messages, with tool results first in a user message.

    The protocol requires that the conversation begins and ends with a user message: a placeholder is added
    where it would not.
    """
    out: list[bytes] = []
    results: list[bytes] = []
    blocks: list[bytes] = []
    side = ""

    def close() -> None:
        content = b",".join(results + blocks)
        if content:
            out.append(b'{"role":"%b","content":[%b]}' % (side.encode(), content))
        results.clear()
        blocks.clear()

    for part in fragments:
        if not part.data:
            continue
        owner = "assistant" if part.role == "assistant" else "user"
        if owner != side:
            close()
            if not out and owner == "assistant":
                out.append(b'{"role":"user","content":[%b]}' % dumps(_text(NO_CONTENT)))
            side = owner
        (results if part.answers else blocks).append(part.data)
    close()
    if side != "user":
        out.append(b'{"role":"user","content":[%b]}' % dumps(_text(CONTINUE)))
    return b",".join(out)


def marked(fragments: list[Fragment]) -> list[Fragment]:
    """Return the fragments with a cache mark on the last block of the last user turn."""
    for index in range(len(fragments) - 1, -1, -1):
        part = fragments[index]
        if part.role == "assistant":
            break
        if part.data and not part.answers:
            return [*fragments[:index], _marked(part), *fragments[index + 1 :]]
    # The turn holds only results, which keep their order, so the last fragment holds the last block.
    if fragments and fragments[-1].data and fragments[-1].role != "assistant":
        return [*fragments[:-1], _marked(fragments[-1])]
    return fragments


def _marked(part: Fragment) -> Fragment:
    # The last block is an object: its closing brace moves behind the mark.
    return structs.replace(part, data=part.data[:-1] + _MARK)


def system_blocks(system: str, *, mark: bool) -> bytes:
    """Encode the system prompt, with a cache mark if `mark` is set."""
    block = dumps(_text(system if system.strip() else NO_CONTENT))
    return b"[" + (block[:-1] + _MARK if mark else block) + b"]"


def encoded_tools(tools: Sequence[ToolSpec], *, mark: bool) -> bytes:
    """Encode the tool list, with a cache mark on the last tool if `mark` is set."""
    values = [
        dumps({"name": tool.name, "description": tool.description, "input_schema": parameters_of(tool)})
        for tool in tools
    ]
    if mark and values:
        values[-1] = values[-1][:-1] + _MARK
    return b"[" + b",".join(values) + b"]"
