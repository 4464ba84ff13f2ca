"""Messages and their parts: one definition for domain, wire and log.

What the log contains must always be readable, so these types have no limits: those in JSON Schemas are for
clients, and `app/content_checks.py` enforces them. What models and tools write is cut before it is logged.

A process caches hundreds of thousands of messages. They contain no reference cycles, so the garbage collector
need not track them (`gc=False`): this cuts its longest pause over 20,000 conversations from 37 ms to 9 ms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace

from perdure.domain.ids import ImageIdText, MessageId, ModelIdText, SessionId, ToolCallId, id_schema
from perdure.domain.layer_fields import OUTPUT_SCHEMA, RESPONSE_FORMAT, VARIABLE_VALUES
from perdure.domain.outputs import OutputSchema, ResponseFormat
from perdure.domain.speakers import Speaker
from perdure.domain.stored_files import StoredFile
from perdure.domain.times import CreatedAt
from perdure.domain.variables import LoggedValues, VariableValues

Role = Literal["system", "user", "agent", "tool_result"]
Phase = Literal["commentary", "final_answer"]
JsonObject = dict[str, Any]

if TYPE_CHECKING:
    JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]
else:
    JsonValue = Any  # msgspec knows no recursive types, and decodes it as just this

MAX_TEXT = 1_000_000
"""Maximum characters of a text part in a client's message: about what fits into the largest model windows."""

MAX_PARTS = 100
"""Maximum number of content parts in a client's message."""

MAX_EFFORT = 40
MAX_LOCALE = 35
MAX_ACTOR = 200
MAX_SOURCE = 100
"""Maximum characters of fields in a client's message."""


def at_most(characters: int) -> Meta:
    """Return a limit for JSON Schemas only. Decoding does not check it; `app/content_checks.py` does."""
    return Meta(extra_json_schema={"maxLength": characters})


_TOOL_CALL_ID = Meta(description="The tool call's id, as the model wrote it.")
_ARGUMENTS = Meta(
    description="The arguments that the model wrote: an object, unless the model made a mistake."
)
_EXTERNAL_ACTOR = Meta(
    description=("The author of the message, if the author is not a member of the organization.")
)
_CONTENT = Meta(description="The parts of the message, in order.")
_STORED = Meta(
    description="Where the content is. Set by the server, which takes it out of the message; clients omit it."
)
MAX_FILENAME = 200
_FILENAME = Annotated[str, at_most(MAX_FILENAME), Meta(examples=["report.pdf"])]


class TextPart(Struct, frozen=True, gc=False, tag_field="type", tag="text"):
    """Plain text."""

    text: Annotated[
        str,
        Meta(
            description=f"The text. A client's message may have {MAX_TEXT} characters in each part.",
            examples=["What is the capital of France?"],
        ),
    ]


class ImagePart(Struct, frozen=True, gc=False, tag_field="type", tag="image", omit_defaults=True):
    """An image, either by URL or inline as base64 with its media type.

    The server fetches the image, stores its bytes beside the log, and puts `stored` in their place.
    """

    url: Annotated[
        Annotated[str, at_most(8192)] | None,
        Meta(description="The image's URL: `https:`, `http:` or `data:`. Give this or `base64`, not both."),
    ] = None
    base64: Annotated[
        str | None, Meta(description="The image's bytes in base64: a PNG, JPEG, GIF or WebP image.")
    ] = None
    media_type: Annotated[
        Annotated[str, at_most(100), Meta(examples=["image/png"])] | None,
        Meta(description="The image's media type. Required with `base64`."),
    ] = None
    stored: Annotated[StoredFile | None, _STORED] = None


class ImageFilePart(Struct, frozen=True, gc=False, tag_field="type", tag="image_file", omit_defaults=True):
    """An uploaded image, by its id."""

    image_id: Annotated[ImageIdText, Meta(description="The id of an uploaded image.")]
    filename: Annotated[_FILENAME | None, Meta(description="The image's file name.")] = None
    stored: Annotated[StoredFile | None, _STORED] = None


class FilePart(Struct, frozen=True, gc=False, tag_field="type", tag="file", omit_defaults=True):
    """A file: a PDF, an image, sound, an office file or text. Give one of `path`, `url` and `base64`.

    A model that reads such files gets it as it is, and any other its text, or else a note that it was left
    out. Like an image, it is stored beside the log, with `stored` in the place of its bytes.
    """

    path: Annotated[
        Annotated[str, at_most(1024)] | None, Meta(description="A path in the session's files.")
    ] = None
    url: Annotated[
        Annotated[str, at_most(8192)] | None,
        Meta(description="The file's URL: `https:`, `http:` or `data:`. The server fetches it once."),
    ] = None
    base64: Annotated[str | None, Meta(description="The file's bytes in base64.")] = None
    filename: Annotated[_FILENAME | None, Meta(description="The file's name.")] = None
    media_type: Annotated[
        Annotated[str, at_most(100), Meta(examples=["application/pdf"])] | None,
        Meta(
            description=(
                "The file's media type. Its content decides; a type that contradicts the content is refused."
            )
        ),
    ] = None
    stored: Annotated[StoredFile | None, _STORED] = None


class ToolCallPart(Struct, frozen=True, gc=False, tag_field="type", tag="tool_call"):
    """A tool call that the model requests."""

    id: Annotated[ToolCallId, _TOOL_CALL_ID]
    name: Annotated[str, Meta(description="The name of the tool.")]
    arguments: Annotated[Any, _ARGUMENTS]


class ToolResultPart(Struct, frozen=True, gc=False, tag_field="type", tag="tool_result", omit_defaults=True):
    """The outcome of a tool call: a result, or an error message."""

    tool_call_id: Annotated[
        ToolCallId, Meta(description="The id of the tool call that this is the result of.")
    ]
    result: Annotated[Any, Meta(description="The result of the call.")] = None
    error: Annotated[str | None, Meta(description="The error message for the model.")] = None


InputPart = TextPart | ImagePart | ImageFilePart | FilePart
ContentPart = TextPart | ImagePart | ImageFilePart | FilePart | ToolCallPart | ToolResultPart
AttachedPart = ImagePart | ImageFilePart | FilePart
"""A part that a file comes with."""


class ReasoningConfig(Struct, frozen=True, omit_defaults=True):
    """How much a reasoning model should think, in the vendor's terms (`low`, `medium`, `high` ...)."""

    effort: Annotated[
        Annotated[str, at_most(MAX_EFFORT), Meta(examples=["medium"])] | None,
        Meta(
            description=(
                "How much the model should reason, in the vendor's terms: `low`, `medium`, `high` and so on."
            )
        ),
    ] = None


WhenBusy = Literal["steer", "queue", "reject", "interrupt"]


class Controls(Struct, frozen=True, omit_defaults=True):
    """A message's choices for the turn that it starts or steers."""

    model_id: Annotated[
        ModelIdText | None,
        Meta(
            description=(
                "The model for the turn. It takes precedence over those of the session, agent and harness."
            )
        ),
    ] = None
    reasoning: Annotated[ReasoningConfig | None, Meta(description="How much the model should reason.")] = None
    locale: Annotated[
        Annotated[str, at_most(MAX_LOCALE)] | None, Meta(description="The user's language, as a BCP 47 tag.")
    ] = None
    error_disclosure: Annotated[
        Annotated[str, at_most(MAX_EFFORT)] | None, Meta(description="Accepted and ignored.")
    ] = None
    hints: Annotated[
        JsonObject | None, Meta(description="What the client tells the server about itself.")
    ] = None
    when_busy: Annotated[
        WhenBusy | None,
        Meta(
            description=(
                "What happens if a turn is running or waiting. `steer`, the default: the turn continues with "
                "the message. `queue`: the message begins its own turn afterwards. `reject`: status 409. "
                "`interrupt`: the turn is cancelled, and the message begins the next one."
            )
        ),
    ] = None
    output_schema: Annotated[OutputSchema | None, OUTPUT_SCHEMA] = None
    response_format: Annotated[ResponseFormat | None, RESPONSE_FORMAT] = None
    variables: Annotated[LoggedValues | None, VARIABLE_VALUES] = None


def joined_controls(turn: Controls | None, own: Controls | None) -> Controls | None:
    """The options of a turn that a message joins: the message's, and the turn's values of variables.

    Args:
        turn: the turn's options; None if the message begins the turn.
    """
    if turn is None or not turn.variables:
        return own
    own = own or Controls()
    return replace(own, variables={**turn.variables, **(own.variables or {})})


class ExternalActor(Struct, frozen=True, omit_defaults=True):
    """The author of a message from outside of the organization, such as a chat user behind a bot."""

    actor_id: Annotated[str, at_most(MAX_ACTOR), Meta(description="The author's id in the other system.")]
    source: Annotated[
        str,
        at_most(MAX_SOURCE),
        Meta(description="The system that the author comes from, such as a chat service."),
    ]
    actor_name: Annotated[
        Annotated[str, at_most(MAX_ACTOR)] | None, Meta(description="The author's name.")
    ] = None
    metadata: Annotated[
        dict[str, str] | None, Meta(description="Key-value pairs about the author, for clients.")
    ] = None


class Message(Struct, frozen=True, gc=False, omit_defaults=True):
    """A message of a session, in the same form in the log and on the wire.

    `reasoning_items` holds the vendor's own reasoning blocks (signed or encrypted). They are stored unchanged
    and sent back only to the provider type that made them (`reasoning_provider`).
    """

    id: Annotated[MessageId, Meta(description="The message's id.")]
    role: Annotated[Role, Meta(description="Who wrote the message.", examples=["user"])]
    content: Annotated[
        tuple[ContentPart, ...],
        _CONTENT,
        Meta(examples=[[{"type": "text", "text": "What is the capital of France?"}]]),
    ]
    created_at: CreatedAt
    phase: Annotated[
        Phase | None,
        Meta(description="`commentary` for text that comes with tool calls, otherwise `final_answer`."),
    ] = None
    controls: Annotated[Controls | None, Meta(description="The message's choices for its turn.")] = None
    external_actor: Annotated[ExternalActor | None, _EXTERNAL_ACTOR] = None
    metadata: Annotated[
        JsonObject | None, Meta(description="The metadata that the client sent with the message.")
    ] = None
    tags: Annotated[
        tuple[str, ...] | None,
        Meta(description="The tags that the client sent with the message, for filtering."),
    ] = None
    thinking: Annotated[str | None, Meta(description="The model's reasoning, where the vendor shows it.")] = (
        None
    )
    thinking_signature: Annotated[str | None, Meta(description="The vendor's signature of `thinking`.")] = (
        None
    )
    reasoning_provider: Annotated[
        str | None, Meta(description="The provider type that produced `reasoning_items`.")
    ] = None
    reasoning_items: Annotated[
        tuple[JsonObject, ...] | None,
        Meta(description="The vendor's reasoning blocks, which are sent back to it unchanged."),
    ] = None
    sequence: Annotated[
        int | None,
        Meta(description="The sequence number of the message's event in the session's log.", examples=[2]),
    ] = None
    client_message_id: Annotated[
        str | None, Meta(description="The client's own id of the message, if it sent one.")
    ] = None
    session_id: Annotated[
        SessionId | None,
        Meta(
            description="The session that the message belongs to.",
            examples=["session_0192f0c1b2a37b5c8d4e5f60718293a4"],
        ),
    ] = None
    author: Annotated[
        Speaker | None,
        Meta(
            description=(
                "The agent that wrote the message. Absent if it is the one that the session was created with."
            )
        ),
    ] = None


class InputMessage(Struct, frozen=True):
    """A message as a client writes it."""

    content: Annotated[tuple[InputPart, ...], Meta(min_length=1, max_length=MAX_PARTS), _CONTENT]
    role: Annotated[Literal["user"], Meta(description="Always `user`.")] = "user"


class CreateMessage(Struct, frozen=True):
    """The body of `POST /v1/sessions/{session_id}/messages`."""

    message: Annotated[InputMessage, Meta(description="The user's message.")]
    controls: Annotated[
        Controls | None, Meta(description="Choices for the turn that the message starts.")
    ] = None
    metadata: Annotated[
        JsonObject | None, Meta(description="Key-value pairs to store with the message, for clients.")
    ] = None
    tags: Annotated[
        Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=100)], ...], Meta(max_length=50)] | None,
        Meta(description="Tags to store with the message, for filtering events."),
    ] = None
    external_actor: Annotated[ExternalActor | None, _EXTERNAL_ACTOR] = None
    client_message_id: Annotated[
        Annotated[str, Meta(min_length=1, max_length=200)] | None,
        Meta(
            description=(
                "The client's own id of the message, unique in the session. Sending the same message again "
                "returns the first one."
            )
        ),
    ] = None
    addressed_participant_id: Annotated[
        Annotated[str, id_schema("participant")] | None | UnsetType,
        Meta(
            description=(
                "The agent among the session's participants that the message is for: the turn that the "
                "message begins is this agent's. Default: the one that the text names at its beginning "
                "(`@billing`), or else the session's own agent."
            )
        ),
    ] = UNSET
    variables: Annotated[
        VariableValues | None | UnsetType,
        Meta(description="Values of the variables in the agent's prompt, by name: `controls.variables`."),
    ] = UNSET


class Usage(Struct, frozen=True, omit_defaults=True):
    """The tokens of one or more model calls. `input_tokens` counts all input, including the cached part."""

    input_tokens: Annotated[
        int, Meta(description="The number of input tokens, including cached ones.", examples=[812])
    ]
    output_tokens: Annotated[int, Meta(description="The number of output tokens.", examples=[34])]
    cache_read_tokens: Annotated[
        int | None,
        Meta(description="The number of input tokens read from the vendor's cache.", examples=[768]),
    ] = None
    cache_creation_tokens: Annotated[
        int | None, Meta(description="The number of input tokens written to the vendor's cache.")
    ] = None
    estimated_cost_usd: Annotated[
        float | None, Meta(description="The estimated cost in US dollars, if the model's price is known.")
    ] = None

    def plus(self, other: Usage | None) -> Usage:
        """Return the sum; a value that neither side has stays None."""
        if other is None:
            return self
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            _add(self.cache_read_tokens, other.cache_read_tokens),
            _add(self.cache_creation_tokens, other.cache_creation_tokens),
            None
            if self.estimated_cost_usd is None and other.estimated_cost_usd is None
            else (self.estimated_cost_usd or 0.0) + (other.estimated_cost_usd or 0.0),
        )

    def minus(self, part: Usage) -> Usage:
        """Return the rest of the usage without a part of it; its cost is not computed."""
        return Usage(
            max(0, self.input_tokens - part.input_tokens),
            max(0, self.output_tokens - part.output_tokens),
            _rest(self.cache_read_tokens, part.cache_read_tokens),
            _rest(self.cache_creation_tokens, part.cache_creation_tokens),
        )


def _rest(whole: int | None, part: int | None) -> int | None:
    return None if whole is None else max(0, whole - (part or 0))


def _add(left: int | None, right: int | None) -> int | None:
    return None if left is None and right is None else (left or 0) + (right or 0)


def storable(text: str) -> str:
    """Replace what databases or JSON cannot store: NUL by U+FFFD, half a surrogate pair by `?`."""
    if "\x00" in text:
        text = text.replace("\x00", "\ufffd")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def text_of(content: tuple[ContentPart, ...]) -> str:
    """Join the text parts."""
    return "".join(part.text for part in content if isinstance(part, TextPart))


def tool_calls_of(message: Message) -> tuple[ToolCallPart, ...]:
    """Return the message's tool calls, in order."""
    return tuple(part for part in message.content if isinstance(part, ToolCallPart))


def preview_of(text: str, limit: int = 200) -> str:
    """Return the first `limit` characters of the stripped text; 200 is the wire contract's preview length."""
    return text.strip()[:limit]
