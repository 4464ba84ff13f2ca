"""Errors as `application/problem+json` (RFC 9457). The only place that maps errors to HTTP statuses."""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from perdure.domain import errors
from perdure.domain.paging import AllowedAction

STATUS: dict[type[errors.PerdureError], tuple[int, str]] = {
    errors.InvalidInput: (400, "Bad request"),
    errors.Unauthenticated: (401, "Unauthorized"),
    errors.Forbidden: (403, "Forbidden"),
    errors.NotFound: (404, "Not found"),
    errors.Conflict: (409, "Conflict"),
    errors.Damaged: (409, "Conflict"),
    errors.StaleHead: (409, "Conflict"),
    errors.Fenced: (409, "Conflict"),
    errors.Gone: (410, "Gone"),
    errors.PreconditionFailed: (412, "Precondition failed"),
    errors.TooLarge: (413, "Content too large"),
    errors.UnsupportedMedia: (415, "Unsupported media type"),
    errors.UnsatisfiableRange: (416, "Range not satisfiable"),
    errors.Unprocessable: (422, "Unprocessable content"),
    errors.HeadersTooLarge: (431, "Request header fields too large"),
    errors.RateLimited: (429, "Too many requests"),
    errors.ModelError: (502, "Bad gateway"),
    errors.Unavailable: (503, "Service unavailable"),
}


class ErrorBody(Struct, frozen=True):
    """The error's code and message, for clients that expect them in an `error` object."""

    code: Annotated[str, Meta(description="The same as `code` at the top level.")]
    message: Annotated[str, Meta(description="The same as `detail` at the top level.")]


class Problem(Struct, frozen=True, omit_defaults=True):
    """An error response: what is wrong and how to fix it."""

    title: Annotated[str, Meta(description="The HTTP status in words.", examples=["Bad request"])]
    status: Annotated[int, Meta(description="The HTTP status code.", examples=[400])]
    code: Annotated[str, Meta(description="The stable error code, for programs.", examples=["invalid_id"])]
    detail: Annotated[
        str,
        Meta(
            description="What is wrong and how to fix it, for people.",
            examples=["`session_id` must be an id of the form session_<32 lower-case hex digits>"],
        ),
    ]
    error: Annotated[
        ErrorBody,
        Meta(
            description="The error code and message again, for clients that expect them in an `error` object."
        ),
    ]
    type: Annotated[str, Meta(description="The URL of the page on this server that explains the code.")] = (
        "about:blank"
    )
    instance: Annotated[str | None, Meta(description="The path of the request.")] = None
    request_id: Annotated[
        str | None,
        Meta(description="The id of the request, as in the answer's `X-Request-Id` and in the server's log."),
    ] = None
    field: Annotated[
        str | None,
        Meta(description="The name of the field or parameter that is wrong, if it is a single one."),
    ] = None
    allowed_actions: Annotated[
        tuple[AllowedAction, ...], Meta(description="Actions that are possible instead.")
    ] = ()
    retry_after_seconds: Annotated[
        int | None, Meta(description="How long to wait before the next attempt, in seconds.")
    ] = None
    retryable: Annotated[
        bool | None, Meta(description="True if the same request may succeed later; otherwise absent.")
    ] = None
    outcome: Annotated[
        Literal["unchanged", "unknown"] | None,
        Meta(
            description=(
                "With status 503: whether the request was carried out. `unchanged`: nothing was changed. "
                "`unknown`: it may or may not have been done; repeat it with the same Idempotency-Key."
            )
        ),
    ] = None


def retry_seconds(error: errors.PerdureError) -> int | None:
    """Return the error's Retry-After in whole seconds, rounded up, at least 1; None if it has none."""
    return None if error.retry_after is None else max(1, math.ceil(error.retry_after))


_SECRET = ("/v1/callbacks/", "/v1/oauth/start/", "/v1/links/")
"""What the paths begin with whose next part is a token."""


_TOKEN = re.compile(r"(pdr_(?:[a-z]{2,3}_)?)[\w-]+")
"""A token, wherever it is: somebody may have mistyped the path before it."""


def shown_path(path: str) -> str:
    """Shorten a request's path for errors and the server's log, and leave out the token in it."""
    path = _TOKEN.sub(r"\1...", path) if "pdr_" in path else path
    for beginning in _SECRET:
        before, found, _ = path.partition(beginning)
        if found:
            return f"{before}{beginning}..."[:200]
    return path[:200]


def status_of(error: errors.PerdureError) -> int:
    """Return the HTTP status of an error."""
    return _status_and_title(error)[0]


def _status_and_title(error: errors.PerdureError) -> tuple[int, str]:
    return next(
        (STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), (500, "Internal server error")
    )


def problem_of(error: errors.PerdureError, instance: str) -> Problem:
    """Build the problem document of an error.

    Args:
        instance: the path of the request.
    """
    status, title = _status_and_title(error)
    return Problem(
        title=title,
        status=status,
        code=error.code,
        detail=error.message,
        error=ErrorBody(error.code, error.message),
        type=f"/docs/errors#{error.code}",
        instance=shown_path(instance),
        field=getattr(error, "field", None),
        retry_after_seconds=retry_seconds(error),
        retryable=error.retryable or None,
        outcome=_outcome(error),
    )


def _outcome(error: errors.PerdureError) -> Literal["unchanged", "unknown"] | None:
    if not isinstance(error, errors.Unavailable):
        return None
    return "unknown" if error.unknown else "unchanged"


SAFE = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing."""


def explain_outcome(problem: Problem, method: str, *, keyed: bool) -> Problem:
    """Say in a 503's detail whether the request may have been carried out, and how to repeat it.

    Args:
        method: the request's method.
        keyed: whether it has an Idempotency-Key.
    """
    if problem.outcome is None or (method in SAFE and not problem.retryable):
        return problem
    if method in SAFE:
        advice = "Try again."
    elif problem.outcome == "unchanged":
        advice = "Nothing was changed: try again." if problem.retryable else "Nothing was changed."
    elif method != "POST" or keyed:
        key = " with the same Idempotency-Key" if keyed else ""
        advice = f"The request may or may not have been done: repeat it{key}."
    else:
        advice = (
            "The request may or may not have been done: look before you repeat it. With an Idempotency-Key, "
            "repeating it is safe."
        )
    detail = f"{problem.detail.rstrip('.')}. {advice}"
    return msgspec.structs.replace(problem, detail=detail, error=ErrorBody(problem.code, detail))


_INTERNAL_DETAIL = "internal error: the details are in the server's log"

INTERNAL = Problem(
    title="Internal server error",
    status=500,
    code="internal",
    detail=_INTERNAL_DETAIL,
    error=ErrorBody("internal", _INTERNAL_DETAIL),
    type="/docs/errors#internal",
)
"""The response to an unexpected exception. It must not reveal anything about the exception."""

encode = msgspec.json.Encoder().encode
