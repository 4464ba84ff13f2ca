"""The limits of what clients write: messages and results of client-side tools.

They are checked where a request comes in, and not where a log is read: a log that contains more must stay
readable.
"""

from __future__ import annotations

import msgspec

from perdure.domain.errors import InvalidInput, TooLarge
from perdure.domain.ids import check_id
from perdure.domain.media import MAX_MEDIA_TYPE, MAX_URL, BadImage, clean_image
from perdure.domain.messages import (
    MAX_ACTOR,
    MAX_EFFORT,
    MAX_FILENAME,
    MAX_LOCALE,
    MAX_SOURCE,
    MAX_TEXT,
    Controls,
    CreateMessage,
    ExternalActor,
    FilePart,
    ImageFilePart,
    ImagePart,
    InputPart,
    JsonObject,
    TextPart,
)
from perdure.domain.tool_content import content_of_result
from perdure.domain.tools import MAX_RESULT, ToolCallResult

_PARTS = ("text", "image")


def checked_content(body: CreateMessage) -> tuple[InputPart, ...]:
    """Return the parts of a message, all of which a model can receive.

    Raises:
        InvalidInput: a part is too long, an image cannot be sent to a model, or there is only blank text.
    """
    content = body.message.content
    checked = tuple(_checked(part, f"message.content[{index}]") for index, part in enumerate(content))
    if all(isinstance(part, TextPart) and not part.text.strip() for part in content):
        raise InvalidInput("`message.content` must not be empty", field="message.content")
    if body.controls is not None:
        _check_controls(body.controls)
    if body.external_actor is not None:
        _check_actor(body.external_actor)
    return checked


def _checked(part: InputPart, where: str) -> InputPart:
    if isinstance(part, TextPart):
        _check_length(part.text, MAX_TEXT, f"{where}.text")
        return part
    if part.stored is not None:
        raise InvalidInput(
            f"`{where}.stored` is set by the server: omit it, and send the file", field=f"{where}.stored"
        )
    if isinstance(part, ImagePart):
        if part.base64 is not None and part.media_type is None:
            raise InvalidInput(f"`{where}.media_type` is required with `base64`", field=where)
        return _check_image(part, where)
    _check_length(part.filename, MAX_FILENAME, f"{where}.filename")
    if isinstance(part, ImageFilePart):
        check_id(part.image_id, "image", f"{where}.image_id")
        return part
    return _check_file(part, where)


def _check_file(part: FilePart, where: str) -> FilePart:
    if sum(each is not None for each in (part.path, part.url, part.base64)) != 1:
        raise InvalidInput(f"`{where}` must have exactly one of `path`, `url` and `base64`", field=where)
    _check_length(part.media_type, MAX_MEDIA_TYPE, f"{where}.media_type")
    if part.url is not None and part.url[:5].lower() != "data:":
        _check_length(part.url, MAX_URL, f"{where}.url")
        if not part.url.lower().startswith(("https://", "http://")):
            raise InvalidInput(f"`{where}.url` must be an http(s) or data URL", field=f"{where}.url")
    return part


def _check_image(part: ImagePart, where: str) -> ImagePart:
    """Return the image with a media type that vendors know."""
    if (part.url is None) == (part.base64 is None):
        raise InvalidInput(f"`{where}` must have either `url` or `base64`, not both", field=where)
    try:
        return clean_image(part)
    except BadImage as error:
        raise InvalidInput(f"`{where}`: the image {error}", field=where) from None


def _check_controls(controls: Controls) -> None:
    effort = controls.reasoning.effort if controls.reasoning is not None else None
    _check_length(effort, MAX_EFFORT, "controls.reasoning.effort")
    _check_length(controls.locale, MAX_LOCALE, "controls.locale")
    _check_length(controls.error_disclosure, MAX_EFFORT, "controls.error_disclosure")


def _check_actor(actor: ExternalActor) -> None:
    _check_length(actor.actor_id, MAX_ACTOR, "external_actor.actor_id")
    _check_length(actor.source, MAX_SOURCE, "external_actor.source")
    _check_length(actor.actor_name, MAX_ACTOR, "external_actor.actor_name")


def _check_length(text: str | None, limit: int, where: str) -> None:
    if text is not None and len(text) > limit:
        raise InvalidInput(f"`{where}` has {len(text)} characters; the limit is {limit}", field=where)


def check_result(result: ToolCallResult, where: str) -> None:
    """Check a client's result of a tool call.

    Raises:
        TooLarge: it is over the limit.
        InvalidInput: it consists of text and image parts, and a model cannot receive one of the images.
    """
    if result.error is not None:
        return
    value = result.result
    if len(msgspec.json.encode(value)) > MAX_RESULT:
        raise TooLarge(
            f"`{where}.result` is larger than {MAX_RESULT} bytes: shorten it", code="tool_result_too_large"
        )
    if isinstance(value, list) and all(isinstance(it, dict) and it.get("type") in _PARTS for it in value):
        for index, item in enumerate(value):
            if item["type"] == "image":
                _check_image_of_result(item, f"{where}.result[{index}]")
        return
    for part in content_of_result(value) or ():  # as MCP writes it, or a single image
        if isinstance(part, ImagePart):
            _check_image(part, f"{where}.result")


def _check_image_of_result(item: JsonObject, where: str) -> None:
    try:
        image = msgspec.convert(item, ImagePart)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"`{where}` is not an image part: {error}", field=where) from None
    _check_image(image, where)
