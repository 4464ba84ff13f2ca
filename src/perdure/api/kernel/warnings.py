"""Warnings about what a request contained and the server ignored; an error if the client wants one.

An unknown field of a body is named in the response's `warnings`, if the response is a JSON object, and in the
header `Perdure-Warnings` in any case. An unknown query parameter is named in the header only, because the
responses to reads are cached and compared. With `Perdure-Strict: true`, both are errors.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from perdure.api.kernel.asgi import Headers
from perdure.api.kernel.call import Reply
from perdure.api.kernel.router import Ready
from perdure.api.kernel.sending import Begun
from perdure.api.kernel.unknown_fields import unknown_fields
from perdure.domain.errors import InvalidInput

HEADER = b"perdure-warnings"
MAX_HEADER = 4000
"""The maximum size of the header with the warnings, in bytes."""


def is_strict(headers: Headers) -> bool:
    """Return whether the client wants errors instead of warnings."""
    return headers.get(b"perdure-strict", b"").strip().lower() == b"true"


def body_warnings(ready: Ready, headers: Headers, body: bytes) -> list[str]:
    """Return a warning about each field of a body that the route does not know.

    Raises:
        InvalidInput: there is one, and the client is strict.
    """
    if ready.shape is None:
        return []
    strict = is_strict(headers)
    try:
        warnings = unknown_fields(ready.shape, body)
    except InvalidInput:
        if strict:
            raise
        return []
    return _checked(warnings, "unknown_field", strict=strict)


def query_warnings(ready: Ready, headers: Headers, pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Return a warning about each query parameter that the route does not know.

    Args:
        pairs: the parameters' names and values.

    Raises:
        InvalidInput: there is one, and the client is strict.
    """
    known = frozenset() if ready.query is None else ready.query.names
    unknown = [name for name, _ in pairs if name not in known and name.partition("[")[0] not in known]
    if not unknown:
        return []
    names = list(dict.fromkeys(unknown))
    warnings = [f"unknown parameter `{name[:100]}` was ignored" for name in names[:20]]
    return _checked(warnings, "unknown_parameter", strict=is_strict(headers))


def _checked(warnings: list[str], code: str, *, strict: bool) -> list[str]:
    if warnings and strict:
        what = warnings[0].replace(" was ignored", " is not accepted with Perdure-Strict", 1)
        raise InvalidInput(what, code=code, field=what.split("`")[1])
    return warnings


class _Warned(Struct):
    warnings: list[str]


def with_warnings(
    reply: Reply | Begun, in_body: list[str], in_query: list[str], *, has_field: bool
) -> Reply | Begun:
    """Add warnings to a response.

    Args:
        has_field: whether the response's type has a field `warnings` of its own.
    """
    text = "; ".join([*in_body, *in_query]).encode("ascii", "backslashreplace")[:MAX_HEADER]
    # No client's text may end the header.
    header = (HEADER, bytes(byte if 32 <= byte < 127 else 63 for byte in text))
    if isinstance(reply, Begun):
        answer = reply.answer
        answer = msgspec.structs.replace(answer, headers=(*answer.headers, header))
        return msgspec.structs.replace(reply, answer=answer)
    body = reply.body
    if in_body and not has_field and reply.content_type == b"application/json" and body[:1] == b"{":
        comma = b"" if body == b"{}" else b","
        body = body[:-1] + comma + msgspec.json.encode(_Warned(in_body))[1:]
    return msgspec.structs.replace(reply, body=body, headers=(*reply.headers, header))
