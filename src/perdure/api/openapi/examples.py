"""Examples of answers for the OpenAPI document, put together from those of the fields.

An example has every field that is required, and of the others those whose own `Meta` has an example.
"""

from __future__ import annotations

import re
from typing import Any

Schema = dict[str, Any]

_NUMBER = "0192f0c1b2a37b5c8d4e5f60718293a4"
_ID = re.compile(r"\^([a-z]+)_\[0-9a-f\]\{32\}\$")

DOCUMENT = {"openapi": "3.1.0", "info": {"title": "Perdure", "version": "0.1.0"}, "paths": {}}
"""The document in the document."""

EVENT_STREAM = (
    'event: connected\ndata: {"status":"connected"}\n\n'
    "id: event_0192f0c1b2a37b5c8000000000c2d3e4\nevent: turn.started\nretry: 1000\n"
    'data: {"id":"event_0192f0c1b2a37b5c8000000000c2d3e4","type":"turn.started",'
    f'"ts":"2026-03-14T09:26:53.589793Z","session_id":"session_{_NUMBER}","sequence":3,'
    f'"context":{{"turn_id":"turn_{_NUMBER}"}},'
    f'"data":{{"turn_id":"turn_{_NUMBER}","input_message_id":"message_{_NUMBER}"}}}}\n\n'
)

_ERRORS: dict[int, tuple[str, str, dict[str, Any]]] = {
    400: (
        "invalid_id",
        "`session_id` must be an id of the form session_<32 lower-case hex digits>",
        {"field": "session_id"},
    ),
    401: ("unauthenticated", "give a valid access token in the Authorization header", {}),
    403: ("forbidden", "this takes the role admin", {}),
    404: ("session_not_found", "no such session", {}),
    409: ("idempotency_key_reused", "this Idempotency-Key belongs to another request", {}),
    412: ("precondition_failed", "the resource has changed since it was read", {}),
    413: ("too_large", "the body is over 10 MB", {}),
    415: ("unsupported_media_type", "send JSON, with the content type application/json", {}),
    429: ("rate_limited", "too many requests: slow down", {"retry_after_seconds": 1}),
    502: ("provider_unavailable", "the provider could not be reached", {}),
    503: ("unavailable", "the database does not answer", {"retry_after_seconds": 1}),
}
"""One error of each status: its code, its message, and what else comes with it."""


def error_example(status: int, title: str) -> dict[str, Any]:
    """An example of an error's body."""
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
    """A field that an example needs has none; the message names it."""


class Examples:
    """Makes examples of the schemas among these components."""

    def __init__(self, components: dict[str, Schema]) -> None:
        self._components = components

    def of(self, schema: Schema) -> Any:
        """An example that fits the schema.

        Raises:
            NoExample: a field of it has none.
        """
        if "examples" in schema:
            return schema["examples"][0]
        if "enum" in schema:
            return schema["enum"][0]
        if "anyOf" in schema:
            return self.of(schema["anyOf"][0])
        if "$ref" in schema:
            return self._component(schema["$ref"].rpartition("/")[2])
        match schema.get("type"):
            case "string" if (found := _ID.fullmatch(schema.get("pattern", ""))) is not None:
                return f"{found[1]}_{_NUMBER}"
            case "array":
                return [self.of(schema["items"])]
            case "boolean":
                return False
        raise NoExample

    def _component(self, name: str) -> Any:
        schema = self._components[name]
        if "properties" not in schema:
            return self.of(schema)
        found = {}
        for field, each in schema["properties"].items():
            if field in schema.get("required", ()) or "examples" in each:
                try:
                    found[field] = self.of(each)
                except NoExample as error:
                    raise NoExample(*error.args or (f"{name}.{field}",)) from None
        return found
