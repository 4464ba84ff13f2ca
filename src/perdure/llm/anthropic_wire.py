"""Encode messages for Anthropic: content blocks in strictly alternating user and assistant turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import structs

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
    NO_LONGER_OFFERED,
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
    without_blanks,
    woven,
)

PROVIDER_TYPE = "anthropic"
_MARK = b',"cache_control":{"type":"ephemeral"}}'
THOUGHTS = frozenset({"thinking", "redacted_thinking"})


def fragment(message: Message, model: str | None) -> Fragment:
    """Encode a message as content blocks.

    Args:
        message: the message.
        model: keep the reasoning that this model made; None leaves all reasoning out.

    Raises:
        ModelError: an image cannot be sent.
    """
    return in_blocks(
        message,
        text=text_block,
        answer=lambda each: _assistant(each, model),
        results=_results,
        content=_text_and_images,
    )


def _assistant(message: Message, model: str | None) -> Fragment:
    pieces = without_blanks(woven(message, [] if model is None else unpacked(message, PROVIDER_TYPE, model)))
    blocks: list[JsonObject] = []
    for piece in pieces:
        if isinstance(piece, str):
            blocks.append(text_block(piece))
        elif isinstance(piece, ToolCallPart):
            call = {
                "id": plain_id(piece.id),
                "name": plain_name(piece.name),
                "input": argument_object(piece.arguments),
            }
            blocks.append({"type": "tool_use", **call})
        else:
            blocks.append(piece)
    return Fragment(
        "assistant",
        b",".join(dumps(block) for block in blocks),
        calls=tuple(piece.id for piece in pieces if isinstance(piece, ToolCallPart)),
        thinks=bool(blocks) and blocks[0].get("type") in THOUGHTS,
    )


def _results(message: Message, results: list[ToolResultPart]) -> Fragment:
    extra = _text_and_images(message.content)
    values: list[tuple[ToolCallId, bytes]] = []
    for part in results:
        text, images = result_content(part)
        # The protocol has a flag for errors, so the text needs no prefix; but errors must not have images.
        is_error = part.error is not None and not images and not extra
        if is_error:
            text = text.removeprefix("Error: ")
        block = _result(part.tool_call_id, text, is_error=is_error)
        # Content besides the results is sent with the first result.
        if images or extra:
            block["content"] = ([text_block(text)] if text.strip() else []) + _text_and_images(images) + extra
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


def _text_and_images(parts: Sequence[ContentPart]) -> list[JsonObject]:
    blocks: list[JsonObject] = []
    for part in parts:
        if isinstance(part, TextPart) and part.text.strip():
            blocks.append(text_block(part.text))
        elif isinstance(part, ImagePart):
            inline = image_data(part)
            source: JsonObject = (
                {"type": "url", "url": part.url}
                if inline is None
                else {"type": "base64", "media_type": inline[0], "data": inline[1]}
            )
            blocks.append({"type": "image", "source": source})
        elif isinstance(part, FilePart):
            name, kind, data = file_data(part)
            document = {"type": "base64", "media_type": kind, "data": data}
            blocks.append({"type": "document", "source": document, "title": name})
    return blocks


def text_block(text: str) -> JsonObject:
    """Return a block of text."""
    return {"type": "text", "text": text}


def turns(fragments: Sequence[Fragment], block: Callable[[str], JsonObject] = text_block) -> bytes:
    """Merge adjacent fragments of one role into messages, with tool results first in a user message.

    The protocol requires that the conversation begins and ends with a user message: a placeholder is added
    where it would not.

    Args:
        fragments: the conversation, arranged.
        block: makes the block of a placeholder.
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
                out.append(b'{"role":"user","content":[%b]}' % dumps(block(NO_CONTENT)))
            side = owner
        (results if part.answers else blocks).append(part.data)
    close()
    if side != "user":
        out.append(b'{"role":"user","content":[%b]}' % dumps(block(CONTINUE)))
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
    block = dumps(text_block(system))
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


def tools_of(messages: Sequence[Message]) -> list[ToolSpec]:
    """Describe the tools that the history has calls of, as tools that are gone."""
    answers = (message for message in messages if message.role == "agent")
    names = dict.fromkeys(plain_name(part.name) for message in answers for part in calls_of(message))
    return [ToolSpec(name, NO_LONGER_OFFERED, {"type": "object", "properties": {}}) for name in names]
