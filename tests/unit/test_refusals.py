"""How a refused history is changed, by what the server said."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.domain.errors import ModelError
from perdure.domain.events import HistoryAdaptation
from perdure.domain.messages import ImagePart, Message, TextPart, ToolResultPart
from perdure.engine.refusals import MAX_LISTED, adapt
from perdure.llm.adaptations import IMAGE_LEFT_OUT, adapted
from perdure.llm.driver import ModelRequest
from tests.unit.llm.talk import agent, ask, call, result, user

CHAT = "openai_completions"
PICTURE = ImagePart(base64="iVBORw0KGgo=", media_type="image/png")
NONE = HistoryAdaptation("model_1")
PLAIN = (user("a"), agent("b"), user("c"))
TOOLS = (
    user("a"),
    agent("I look.", call("c1"), thinking="hm"),
    result("c1", "x"),
    agent("b"),
    user("c"),
)
SEEN = (user("look", PICTURE), agent("I see."), user("and this?", PICTURE))


def refused(message: str, **fields: Any) -> ModelError:
    return ModelError(message, **{"code": "invalid_model_request", "status": 400, **fields})


def request(*messages: Message, **fields: Any) -> ModelRequest:
    return ask(*messages, **{"system": "S", **fields})


BLIND = [
    "this model does not support image input",
    "Invalid content type. image_url is only supported by certain models.",
    "This model does not support images. Please use a vision model.",
    "model-x is not a multimodal model",
    "At most 0 image(s) may be provided in one request.",
    "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj",
    "this model is missing data required for image input",
    "messages[0].content must be a string",
    "messages.0.content: Input should be a valid string, string_type",
    (
        "Failed to deserialize the JSON body into the target type: messages[1]: unknown variant `image_url`,"
        " expected `text` at line 1 column 93"
    ),
    "Image input is not enabled for this model",
    "Image inputs are not supported by this model.",
    "The model doesn't support the image content block that you provided.",
    "The provided model is not a vision model. Please provide a vision model.",
    'Cannot read "image.png" (this model does not support image input).',
    "Model only supports text input",
    "this is a text-only model",
    'can only concatenate str (not "list") to str',
    "'list' object has no attribute 'strip'",
    "Jinja Exception: Expected string content",
]
BAD_IMAGE = [
    "Could not process image",
    "messages.0.content.1.image.source.base64: image exceeds 5 MB maximum: 6103408 bytes > 5242880 bytes",
    "messages.2.content.0: At least one of the image dimensions exceed max allowed size: 8000 pixels",
    "The image was specified using the image/png media type, but it appears to be an image/jpeg image",
    "Unable to download the file. Please verify the URL and try again.",
    (
        "You uploaded an unsupported image. Please make sure your image has of one the following formats:"
        " ['png', 'jpeg', 'gif', 'webp']."
    ),
    "Invalid MIME type. Only image types are supported.",
    "Error while downloading https://example.com/a.png.",
    "Invalid image data",
    "Timeout while downloading the image",
    "The image data you provided does not represent a valid image.",
    "Unsupported MIME type: image/svg+xml",
    "Cannot fetch content from the provided URL.",
    "cannot identify image file <_io.BytesIO object>",
    "Unable to process input image. Please retry or report",
    "Only HTTPS URLs are supported.",
    "Invalid base64-encoded string: number of data characters (5) cannot be 1 more than a multiple of 4",
    "failed to decode picture",
    "This model does not support image format webp",
]


@pytest.mark.parametrize("words", BLIND)
def test_a_server_that_has_no_use_for_images_gets_none_from_then_on(words: str) -> None:
    made = adapt(NONE, request(*SEEN), CHAT, refused(words))
    assert made is not None
    assert (made.changes, made.images_left_out, made.refusal) == (("no_images",), (), words)
    assert not any(isinstance(part, ImagePart) for each in adapted(SEEN, made) for part in each.content)
    assert adapt(NONE, request(*PLAIN), CHAT, refused(words)) is None


@pytest.mark.parametrize("words", BAD_IMAGE)
def test_an_image_that_was_refused_is_left_out_and_those_before_it_stay(words: str) -> None:
    made = adapt(NONE, request(*SEEN), "anthropic", refused(words))
    assert made is not None
    assert (made.changes, made.images_left_out) == ((), (SEEN[2].id,))
    sent = adapted(SEEN, made)
    assert sent[0] == SEEN[0]
    assert sent[2].content == (TextPart("and this?"), TextPart(IMAGE_LEFT_OUT))
    again = adapt(made, request(*sent), "anthropic", refused(words))
    assert again is not None
    assert again.images_left_out == (SEEN[2].id, SEEN[0].id)


def test_images_in_results_are_left_out_too() -> None:
    shot = [{"type": "text", "text": "done"}, {"type": "image", "base64": "iVBORw0KGgo="}]
    history = (user("a"), agent(call("c1")), result("c1", shot))
    made = adapt(NONE, request(*history), CHAT, refused("Could not process image"))
    assert made is not None
    part = adapted(history, made)[2].content[0]
    assert isinstance(part, ToolResultPart)
    assert part.result == f"done\n{IMAGE_LEFT_OUT}"


def test_of_more_images_than_a_server_takes_the_newest_stay() -> None:
    made = adapt(NONE, request(*SEEN), CHAT, refused("At most 1 image(s) may be provided in one request."))
    assert made is not None
    assert made.images_left_out == (SEEN[0].id,)


def test_the_list_of_left_out_images_is_bounded() -> None:
    many = [user(PICTURE) for _ in range(MAX_LISTED + 1)]
    made = adapt(NONE, request(*many), CHAT, refused("Could not process image"))
    assert made is not None
    assert (made.changes, made.images_left_out) == (("no_images",), ())


NAMED = [
    ("Conversation roles must alternate user/assistant/user/assistant/...", "alternating_roles"),
    (
        (
            "After the optional system message, roles must alternate user and assistant roles except"
            " for tool calls and results."
        ),
        "alternating_roles",
    ),
    ("Unexpected role 'user' after role 'tool'", "alternating_roles"),
    ("Tool call id was call_1 but must be a-z, A-Z, 0-9, with a length of 9.", "short_call_ids"),
    (
        "Invalid 'messages[1].tool_calls[0].id': string too long. Expected a maximum length 9",
        "short_call_ids",
    ),
    ("System role not supported", "system_as_user"),
    ("不支持system角色", "system_as_user"),
    ("Rolle 'system' wird nicht unterstützt", "system_as_user"),
    ("Developer instruction is not enabled for models/gemma-3-27b-it", "system_as_user"),
    ("Unsupported value: 'messages[0].role' does not support 'system' with this model.", "system_as_user"),
    ("Only user and assistant roles are supported!", "system_as_user"),
    ("Assistant message must have either content or tool_calls, but not both.", "calls_without_text"),
    (
        "thinking is enabled but reasoning_content is missing in assistant tool call message at index 2",
        "reasoning_with_calls",
    ),
    ("The `reasoning_content` in the thinking mode must be passed back to the API.", "reasoning_with_calls"),
    ("property 'reasoning_content' is unsupported", "no_reasoning"),
    ("messages.1.assistant.reasoning_content: Extra inputs are not permitted", "no_reasoning"),
    ("Requests which have `tool_use` blocks in messages must define tools.", "tools_as_text"),
    ("Function call is missing a thought_signature in functionCall parts.", "tools_as_text"),
    ("This model does not support tool messages: role 'tool' is unknown", "tools_as_text"),
]


@pytest.mark.parametrize(("words", "change"), NAMED)
def test_a_refusal_that_names_its_reason_gets_what_it_asks_for(words: str, change: str) -> None:
    made = adapt(NONE, request(*TOOLS), CHAT, refused(words))
    assert made is not None
    assert made.changes == (change,)


def test_a_template_that_knows_no_system_prompt_gets_it_as_a_part_of_the_first_message() -> None:
    words = "Conversation roles must alternate user/assistant/user/assistant/..."
    error = refused(words, code="provider_unavailable", transient=True, status=500)
    made = adapt(NONE, request(*PLAIN), CHAT, error)
    assert made is not None
    assert made.changes == ("system_as_user",)
    first = adapt(NONE, request(*TOOLS), CHAT, error)
    assert first is not None
    second = adapt(first, request(*TOOLS), CHAT, error)
    assert second is not None
    assert second.changes == ("alternating_roles", "system_as_user")


def test_a_template_that_fails_over_an_image_is_understood_though_it_is_called_a_server_error() -> None:
    words = 'can only concatenate str (not "list") to str'
    error = refused(words, code="provider_unavailable", transient=True, status=500)
    made = adapt(NONE, request(*SEEN), CHAT, error)
    assert made is not None
    assert made.changes == ("no_images",)


def test_a_template_that_fails_is_understood_though_it_is_called_a_server_error() -> None:
    words = "Jinja Exception: conversation roles must alternate user and assistant roles"
    error = refused(words, code="provider_unavailable", transient=True, status=500)
    made = adapt(NONE, request(*TOOLS), CHAT, error)
    assert made is not None
    assert made.changes == ("alternating_roles",)
    gone = refused("No endpoints found that support image input", code="model_not_found", status=404)
    blind = adapt(NONE, request(*SEEN), CHAT, gone)
    assert blind is not None
    assert blind.changes == ("no_images",)
    roles = refused("Only user and assistant roles are supported!", code="provider_unavailable", status=500)
    first = adapt(NONE, request(*TOOLS), CHAT, roles)
    assert first is not None
    second = adapt(first, request(*TOOLS), CHAT, roles)
    assert second is not None
    assert second.changes == ("system_as_user", "tools_as_text")
    busy = refused("the system is not available", code="provider_unavailable", transient=True, status=503)
    assert adapt(NONE, request(*TOOLS), CHAT, busy) is None


def test_an_unexplained_refusal_gets_everything_at_once_and_then_tools_as_text() -> None:
    history = (*TOOLS, user(PICTURE))
    first = adapt(NONE, request(*history), CHAT, refused("Bad Request"))
    assert first is not None
    assert set(first.changes) == {
        "alternating_roles",
        "short_call_ids",
        "calls_without_text",
        "no_reasoning",
    }
    assert first.images_left_out == (history[-1].id,)
    sent = adapted(history, first)
    second = adapt(first, request(*sent), CHAT, refused("Bad Request", status=422))
    assert second is not None
    assert second.changes == (*first.changes, "tools_as_text")
    plain = adapted(history, second)
    assert [each.role for each in plain] == ["user", "agent", "user", "agent", "user", "user"]
    assert plain[1].content == (TextPart("I look.\n\n[called the tool weather with {}]"),)
    assert plain[2].content == (TextPart("[result of the tool weather]\nx"),)
    assert adapt(second, request(*plain), CHAT, refused("Bad Request")) is None


@pytest.mark.parametrize(
    "error",
    [
        refused("invalid key", code="provider_auth", status=401),
        refused("forbidden", code="provider_auth", status=403),
        refused("slow down", code="provider_rate_limited", status=429),
        refused("too long", code="context_length_exceeded"),
        refused("refused", code="content_filtered"),
        refused("no credit", code="quota_exceeded", status=402),
        refused("Unsupported parameter: 'max_tokens' is not supported with this model."),
        refused("tools.0.custom.input_schema: JSON schema is invalid"),
        refused("teapot", status=418),
    ],
    ids=str,
)
def test_other_refusals_change_nothing(error: ModelError) -> None:
    assert adapt(NONE, request(*TOOLS), CHAT, error) is None


def test_a_history_that_nothing_would_change_is_not_sent_again() -> None:
    for provider_type in (CHAT, "openai", "anthropic"):
        assert adapt(NONE, request(*PLAIN), provider_type, refused("Bad Request")) is None


def test_changes_that_a_protocol_does_not_know_are_not_tried_with_it() -> None:
    made = adapt(NONE, request(*TOOLS), "anthropic", refused("Bad Request"))
    assert made is not None
    assert made.changes == ("tools_as_text",)
