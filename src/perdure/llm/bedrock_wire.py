"""Encode messages for Amazon Bedrock's Converse: content blocks in alternating user and assistant turns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b

from msgspec import structs

from perdure.domain.errors import ModelError
from perdure.domain.ids import MessageId, ToolCallId
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
from perdure.domain.stored_files import PDF
from perdure.llm.driver import ToolSpec
from perdure.llm.file_parts import SOUND_FORMATS, file_data
from perdure.llm.wire import (
    NO_CONTENT,
    NO_RESULT,
    Fragment,
    argument_object,
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

PROVIDER_TYPE = "bedrock"
CACHE_POINT: JsonObject = {"cachePoint": {"type": "default"}}
_POINT = b"," + dumps(CACHE_POINT)
IMAGE_BY_URL = "[image left out: Amazon Bedrock takes no images by URL]"
_FORMATS = frozenset({"png", "jpeg", "gif", "webp"})
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9()\[\]-]+")
MAX_NAME = 50
"""Characters that are kept of the name of a document: Bedrock accepts 64 in all, or 200, by region."""


def text_block(text: str) -> JsonObject:
    """Return a block of text."""
    return {"text": text}


def fragment(message: Message, model: str | None) -> Fragment:
    """Encode a message as content blocks.

    Args:
        message: the message.
        model: keep the reasoning that this model made; None leaves all reasoning out.

    Raises:
        ModelError: an image or a file cannot be sent.
    """
    return in_blocks(
        message,
        text=text_block,
        answer=lambda each: _assistant(each, model),
        results=_results,
        content=lambda parts: _given(parts, message.id),
    )


def _assistant(message: Message, model: str | None) -> Fragment:
    pieces = without_blanks(woven(message, [] if model is None else unpacked(message, PROVIDER_TYPE, model)))
    blocks: list[JsonObject] = []
    for piece in pieces:
        if isinstance(piece, str):
            blocks.append(text_block(piece))
        elif isinstance(piece, ToolCallPart):
            call = {
                "toolUseId": plain_id(piece.id),
                "name": plain_name(piece.name),
                "input": argument_object(piece.arguments),
            }
            blocks.append({"toolUse": call})
        else:
            blocks.append(piece)
    return Fragment(
        "assistant",
        b",".join(map(dumps, blocks)),
        calls=tuple(piece.id for piece in pieces if isinstance(piece, ToolCallPart)),
        thinks=bool(blocks) and "reasoningContent" in blocks[0],
    )


def _results(message: Message, results: list[ToolResultPart]) -> Fragment:
    extra = _given(message.content, message.id)
    values: list[tuple[ToolCallId, bytes]] = []
    for part in results:
        text, images = result_content(part)
        content = [text_block(text if text.strip() else NO_CONTENT)] if text.strip() or not images else []
        # Content besides the results is sent with the first result.
        content += _given(images, message.id) + extra
        extra = []
        values.append((part.tool_call_id, _result(part.tool_call_id, content, failed=part.error is not None)))
    return result_fragment(values)


def _result(call_id: ToolCallId, content: list[JsonObject], *, failed: bool) -> bytes:
    status = {"status": "error"} if failed else {}
    return dumps({"toolResult": {"toolUseId": plain_id(call_id), "content": content, **status}})


def missing(call_id: ToolCallId) -> Fragment:
    """Make an error result for a call whose result is missing in the history."""
    return Fragment("user", _result(call_id, [text_block(NO_RESULT)], failed=True), answers=(call_id,))


def _given(parts: Sequence[ContentPart], message_id: MessageId) -> list[JsonObject]:
    """Encode text, images and files. A document needs a text beside it."""
    blocks: list[JsonObject] = []
    for number, part in enumerate(parts):
        if isinstance(part, TextPart) and part.text.strip():
            blocks.append(text_block(part.text))
        elif isinstance(part, ImagePart):
            blocks.append(_image(part))
        elif isinstance(part, FilePart):
            blocks.append(_file(part, f"{message_id}/{number}"))
    if any("document" in block for block in blocks) and not any("text" in block for block in blocks):
        blocks.insert(0, text_block(NO_CONTENT))
    return blocks


def _file(part: FilePart, place: str) -> JsonObject:
    name, kind, data = file_data(part)
    if kind == PDF:
        source = {"bytes": data}
        return {"document": {"format": "pdf", "name": document_name(name, place), "source": source}}
    if kind in SOUND_FORMATS:
        return {"audio": {"format": SOUND_FORMATS[kind], "source": {"bytes": data}}}
    raise ModelError(f"Amazon Bedrock takes no files of the type {kind!r}", code="invalid_model_request")


def document_name(filename: str, place: str) -> str:
    """Return a name as Bedrock accepts it: few characters, and each only once in a conversation.

    Args:
        place: what no other document of the conversation has.
    """
    words = " ".join(_NOT_IN_NAMES.sub(" ", filename).split())[:MAX_NAME]
    digest = blake2b(place.encode("utf-8", "replace"), digest_size=4).hexdigest()
    return f"{words or 'document'} ({digest})"


def _image(part: ImagePart) -> JsonObject:
    inline = image_data(part)
    if inline is None:
        return text_block(IMAGE_BY_URL)
    kind = inline[0].partition("/")[2].replace("jpg", "jpeg")
    if kind not in _FORMATS:
        raise ModelError(
            f"Amazon Bedrock takes no images of the type {inline[0]!r}: use PNG, JPEG, GIF or WebP",
            code="invalid_model_request",
        )
    return {"image": {"format": kind, "source": {"bytes": inline[1]}}}


def marked(fragments: list[Fragment]) -> list[Fragment]:
    """Return the fragments with a cache point at the end of the last user turn."""
    for index in range(len(fragments) - 1, -1, -1):
        part = fragments[index]
        if part.role == "assistant":
            break
        if part.data and not part.answers:
            return [*fragments[:index], _marked(part), *fragments[index + 1 :]]
    if fragments and fragments[-1].data and fragments[-1].role != "assistant":
        return [*fragments[:-1], _marked(fragments[-1])]
    return fragments


def _marked(part: Fragment) -> Fragment:
    return structs.replace(part, data=part.data + _POINT)


def encoded_tools(tools: Sequence[ToolSpec], *, mark: bool) -> bytes:
    """Encode the tool list, with a cache point at its end if `mark` is set."""
    values: list[JsonObject] = [
        {
            "toolSpec": {
                "name": tool.name,
                "description": tool.description or tool.name,
                "inputSchema": {"json": parameters_of(tool)},
            }
        }
        for tool in tools
    ]
    return dumps([*values, CACHE_POINT] if mark else values)
