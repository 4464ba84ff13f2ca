"""What a tool's server asks a person for in the middle of a call: a sign-in, a form, or a visit to a URL."""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from perdure.domain.errors import InvalidInput, ToolError
from perdure.domain.ids import InputRequestId, SessionId, ToolCallId, UserId
from perdure.domain.messages import JsonObject, JsonValue
from perdure.domain.times import CreatedAt, Timestamp

WAIT = 7 * 24 * 3600 * 1_000_000
"""Microseconds that a call waits for a person."""
MAX_FIELDS = 50
MAX_CHOICES = 200
MAX_TEXT = 10_000
"""Characters of a text that a person enters."""
MAX_FORM = 32 * 1024
"""Bytes of a form, and of an answer to it."""
MAX_ASKED = 2_000
"""Characters of what a server says about its question."""
MAX_REQUESTS = 10
"""Questions of one call at a time."""

InputMode = Literal["sign_in", "form", "url"]
InputAction = Literal["accept", "decline", "cancel"]

_MODE = Meta(
    description="`sign_in`: sign in at a server; `form`: fill in a form; `url`: visit a URL.",
    examples=["form"],
)
_ID = Meta(description="The request's id.")
_MESSAGE = Meta(description="What the server says about it, for people. Do not trust it.")
_SCHEMA = Meta(description="With `form`: a JSON Schema of a flat object.")
_URL = Meta(description="With `url`: the URL to visit. With `sign_in`: this server's page to begin at.")
_SERVER = Meta(description="The name of the server that asks.", examples=["crm"])


class ActedAs(Struct, frozen=True, omit_defaults=True):
    """Whose sign-in a call used."""

    kind: Annotated[
        Literal["user", "service"],
        Meta(description="`user`: that of the session's owner; `service`: that of the organization."),
    ]
    user_id: Annotated[UserId | None, Meta(description="With `user`: the user.")] = None


class AskedInput(Struct, frozen=True, omit_defaults=True):
    """What a parked call waits for. It has no secrets."""

    id: Annotated[InputRequestId, _ID]
    mode: Annotated[InputMode, _MODE]
    server: Annotated[str, _SERVER]
    message: Annotated[str, _MESSAGE] = ""
    schema: Annotated[JsonObject | None, _SCHEMA] = None
    url: Annotated[str | None, _URL] = None


class InputRequest(Struct, frozen=True, omit_defaults=True):
    """A question to a person that a tool call waits for."""

    id: Annotated[InputRequestId, _ID]
    session_id: Annotated[SessionId, Meta(description="The session that waits.")]
    tool_call_id: Annotated[
        ToolCallId, Meta(description="The call that waits for the answer.", examples=["call_1"])
    ]
    tool_name: Annotated[str, Meta(description="The name of the tool.", examples=["mcp_crm__find"])]
    mode: Annotated[InputMode, _MODE]
    server: Annotated[str, _SERVER]
    created_at: CreatedAt
    expires_at: Annotated[
        Timestamp,
        Meta(description="When the call gives up.", examples=["2026-03-15T09:26:53.589793Z"]),
    ]
    message: Annotated[str, _MESSAGE] = ""
    schema: Annotated[JsonObject | None, _SCHEMA] = None
    url: Annotated[str | None, _URL] = None


class AnswerInput(Struct, frozen=True):
    """The body of `POST /v1/sessions/{session_id}/input-requests/{input_id}`."""

    action: Annotated[
        InputAction,
        Meta(description="`accept`: here is the content, or the URL was visited; `decline`; `cancel`."),
    ]
    content: Annotated[JsonObject | None, Meta(description="With `accept` of a form: its fields.")] = None


class AnsweredInput(Struct, frozen=True):
    """The outcome of an answer."""

    status: Annotated[Literal["accepted"], Meta(description="The answer is stored.", examples=["accepted"])]


class StoredInput(Struct, frozen=True, omit_defaults=True):
    """A question as it is stored, encrypted.

    Attributes:
        server: the name of the server that asks; `server_url`: its URL.
        url: with `url`: what to visit.
        key, state: what the server calls the question, and the state that it wants back with the answers.
        again: without the visit, the server would only ask again: a refusal ends the call.
        round: how many times in a row the call has asked.
        resource_metadata, scopes: what the server's challenge named, and scopes that were granted before.
        answer: the answer, as the server gets it.
    """

    server: str
    server_url: str
    mode: InputMode
    message: str = ""
    schema: JsonObject | None = None
    url: str | None = None
    key: str = ""
    state: str | None = None
    again: bool = False
    round: int = 1
    resource_metadata: str | None = None
    scopes: tuple[str, ...] = ()
    answer: JsonObject | None = None

    def asked(self, request_id: InputRequestId, public_url: str) -> AskedInput:
        """Return what people see of it."""
        url = sign_in_page(public_url, request_id) if self.mode == "sign_in" else self.url
        return AskedInput(request_id, self.mode, self.server, self.message, self.schema, url)


def sign_in_page(public_url: str, token: str) -> str:
    """Return the page of this server at which a sign-in begins."""
    return f"{public_url}/v1/oauth/start/{token}"


_TYPES = ("string", "number", "integer", "boolean")


def check_form(schema: JsonObject | None) -> JsonObject:
    """Return a form's schema: a flat object of texts, numbers, truth values and choices.

    Raises:
        ToolError: it is something else, or too large.
    """
    fields = schema.get("properties") if isinstance(schema, dict) else None
    if schema is None or schema.get("type", "object") != "object" or not isinstance(fields, dict):
        raise ToolError("The server asks for a form whose schema is not a flat object.")
    if len(fields) > MAX_FIELDS or len(msgspec.json.encode(schema)) > MAX_FORM:
        raise ToolError(f"The server asks for a form with more than {MAX_FIELDS} fields or {MAX_FORM} bytes.")
    for name, field in fields.items():
        if not isinstance(field, dict) or not _is_plain(field):
            raise ToolError(f"The server asks for a form with the field {name[:100]!r}, which is not plain.")
    return schema


def _is_plain(field: JsonObject) -> bool:
    kind = field.get("type", "string")
    if kind == "array":
        return _choices(field.get("items")) is not None
    return kind in _TYPES


def _choices(field: JsonValue) -> list[JsonValue] | None:
    """The values of a choice; None if it is none."""
    if not isinstance(field, dict):
        return None
    values = field.get("enum")
    for key in ("oneOf", "anyOf"):
        options = field.get(key)
        if isinstance(options, list):
            values = [each.get("const") for each in options if isinstance(each, dict)]
    return values if isinstance(values, list) and len(values) <= MAX_CHOICES else None


def check_content(schema: JsonObject, content: JsonObject | None) -> JsonObject:
    """Check what a person entered into a form.

    Raises:
        InvalidInput: a field is missing, unknown or wrong; the message says which.
    """
    fields = schema.get("properties")
    if not isinstance(fields, dict):
        fields = {}
    entered = content or {}
    if len(msgspec.json.encode(entered)) > MAX_FORM:
        raise InvalidInput(f"`content` has more than {MAX_FORM} bytes", field="content")
    required = schema.get("required")
    for name in required if isinstance(required, list) else []:
        if name not in entered:
            raise _wrong(str(name), "it is required")
    for name, value in entered.items():
        field = fields.get(name)
        if not isinstance(field, dict):
            raise _wrong(name, f"the form has no such field, but: {', '.join(map(str, fields))[:200]}")
        _check_field(name, field, value)
    return entered


def _wrong(name: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"`content.{name[:100]}`: {why}", code="invalid_input_content", field=f"content.{name[:100]}"
    )


def _check_field(name: str, field: JsonObject, value: JsonValue) -> None:
    kind, choices = field.get("type", "string"), _choices(field)
    if kind == "array":
        allowed = _choices(field.get("items")) or []
        if not isinstance(value, list) or any(each not in allowed for each in value):
            raise _wrong(name, f"it must be a list of: {_listed(allowed)}")
        if not _within(len(value), field, "minItems", "maxItems") or len(value) > MAX_CHOICES:
            raise _wrong(name, "it has too few or too many entries")
    elif choices is not None and kind != "boolean":
        if value not in choices:
            raise _wrong(name, f"it must be one of: {_listed(choices)}")
    elif kind == "boolean":
        if not isinstance(value, bool):
            raise _wrong(name, "it must be true or false")
    elif kind in ("number", "integer"):
        _check_number(name, field, value, whole=kind == "integer")
    else:
        _check_text(name, field, value)


def _listed(choices: list[JsonValue]) -> str:
    return ", ".join(map(str, choices))[:200]


def _check_number(name: str, field: JsonObject, value: JsonValue, *, whole: bool) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _wrong(name, "it must be a number")
    if whole and value != int(value):
        raise _wrong(name, "it must be a whole number")
    if not _within(value, field, "minimum", "maximum"):
        raise _wrong(name, f"it must be from {field.get('minimum', '-')} to {field.get('maximum', '-')}")


def _within(value: float, field: JsonObject, least: str, most: str) -> bool:
    low, high = field.get(least), field.get(most)
    return (not isinstance(low, int | float) or value >= low) and (
        not isinstance(high, int | float) or value <= high
    )


_FORMATS = {
    "email": re.compile(r"[^@\s]{1,64}@[^@\s]{1,255}"),
    "date": re.compile(r"\d{4}-\d{2}-\d{2}"),
    "date-time": re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}.{0,30}"),
    "uri": re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}:\S{1,2000}"),
}


def _check_text(name: str, field: JsonObject, value: JsonValue) -> None:
    if not isinstance(value, str):
        raise _wrong(name, "it must be a text")
    if len(value) > MAX_TEXT or not _within(len(value), field, "minLength", "maxLength"):
        raise _wrong(
            name,
            f"it must have from {field.get('minLength', 0)} to {field.get('maxLength', MAX_TEXT)} characters",
        )
    kind = field.get("format")
    pattern = _FORMATS.get(kind) if isinstance(kind, str) else None
    if pattern is not None and pattern.fullmatch(value) is None:
        raise _wrong(name, f"it must be a valid {kind}")


def check_visited(url: str | None) -> str:
    """Return a URL that a person is asked to visit. Raises ToolError: it is not for the web."""
    try:
        parts = urlsplit(url or "")
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
    except ValueError:
        good = False
    if url is None or not good or len(url) > 2048 or not re.fullmatch(r"[!-~]+", url):
        raise ToolError("The server asks to visit a URL that is not an http or https URL.")
    return url
