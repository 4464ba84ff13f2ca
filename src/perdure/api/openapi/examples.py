"""Builds the OpenAPI document's examples of responses from the examples of their fields.

An example has all required fields, and those optional fields whose `Meta` has an example.
"""

from __future__ import annotations

import re

from perdure.domain.messages import JsonObject, JsonValue

_NUMBER = "0192f0c1b2a37b5c8d4e5f60718293a4"
_ID = re.compile(r"\^([a-z]+)_\[0-9a-f\]\{32\}\$")

DOCUMENT = {"openapi": "3.1.0", "info": {"title": "Perdure", "version": "0.2.0"}, "paths": {}}
"""The example of the OpenAPI document itself."""

EVENT_STREAM = (
    'event: connected\ndata: {"status":"connected"}\n\n'
    "id: event_0192f0c1b2a37b5c8000000000c2d3e4\nevent: turn.started\nretry: 1000\n"
    'data: {"id":"event_0192f0c1b2a37b5c8000000000c2d3e4","type":"turn.started",'
    f'"ts":"2026-03-14T09:26:53.589793Z","session_id":"session_{_NUMBER}","sequence":3,'
    f'"context":{{"turn_id":"turn_{_NUMBER}"}},'
    f'"data":{{"turn_id":"turn_{_NUMBER}","input_message_id":"message_{_NUMBER}"}}}}\n\n'
)

_ERRORS: dict[int, tuple[str, str, JsonObject]] = {
    400: (
        "invalid_id",
        "`session_id` must be an id of the form session_<32 lower-case hex digits>",
        {"field": "session_id"},
    ),
    401: ("unauthenticated", "send a valid access token: Authorization: Bearer pdr_pat_...", {}),
    403: ("forbidden", "this requires the role admin", {}),
    404: ("session_not_found", "no such session", {}),
    409: ("idempotency_key_reused", "this Idempotency-Key was used for another request: use a new key", {}),
    410: ("gone", "this callback is not open: it was answered, cancelled or too late, or never existed", {}),
    412: ("precondition_failed", "the resource has changed since it was read: read it again", {}),
    413: ("too_large", "the body may have at most 10 MB", {}),
    415: ("unsupported_media_type", "send JSON with the header Content-Type: application/json", {}),
    416: ("unsatisfiable_range", "no byte is in the range: there are 1024", {}),
    422: ("invalid_skill", "SKILL.md: line 3: `description` is missing", {"field": "skill_md"}),
    429: (
        "rate_limited",
        "too many requests: wait as long as Retry-After says",
        {"retry_after_seconds": 1},
    ),
    502: ("provider_unavailable", "the provider could not be reached", {}),
    503: ("unavailable", "the database does not answer", {"retry_after_seconds": 1}),
}
"""One error of each status: its code, its message, and its other fields."""


def error_example(status: int, title: str) -> JsonObject:
    """Return an example of an error's body."""
    code, detail, rest = _ERRORS[status]
    return {
        "type": f"/docs/errors#{code}",
        "title": title,
        "status": status,
        "code": code,
        "detail": detail,
        "error": {"code": code, "message": detail},
        "instance": f"/v1/sessions/session_{_NUMBER}",
        **rest,
    }


class NoExample(Exception):
    """A required field has no example. The message names it."""


class Examples:
    """Builds examples of schemas.

    Args:
        components: the schemas that references lead to, by name.
    """

    def __init__(self, components: JsonObject) -> None:
        self._components = components

    def of(self, schema: JsonObject) -> JsonValue:
        """Return an example that fits the schema.

        Raises:
            NoExample: a required field has no example.
        """
        if values := schema.get("examples") or schema.get("enum"):
            example: JsonValue = values[0]
            return example
        if "anyOf" in schema:
            return self.of(schema["anyOf"][0])
        if "$ref" in schema:
            return self._component(schema["$ref"].rpartition("/")[2])
        match schema.get("type"):
            case "string" if (prefix := _ID.fullmatch(schema.get("pattern", ""))) is not None:
                return f"{prefix[1]}_{_NUMBER}"
            case "array":
                return [self.of(schema["items"])]
            case "boolean":
                return False
        raise NoExample

    def _component(self, name: str) -> JsonValue:
        schema = self._components[name]
        if "properties" not in schema:
            return self.of(schema)
        example = {}
        for field, each in schema["properties"].items():
            if field in schema.get("required", ()) or "examples" in each:
                try:
                    example[field] = self.of(each)
                except NoExample as error:
                    raise NoExample(*error.args or (f"{name}.{field}",)) from None
        return example
