"""Everything that can go wrong, in one tree.

    PerdureError                  code, message, retryable
    ├── InvalidInput              400  the caller can mend it
    │   └── InvalidId             400  not an id of the kind asked for
    ├── Unauthenticated           401  no or bad credentials
    ├── Forbidden                 403  known, but not allowed
    ├── NotFound                  404  not there, or somebody else's: the same answer
    ├── Conflict                  409  the resource's state does not allow it
    ├── PreconditionFailed        412  the resource changed since it was read
    ├── TooLarge                  413  over a size limit
    ├── UnsupportedMedia          415  not a body we read
    ├── HeadersTooLarge           431  over the limit of what comes before a body
    ├── RateLimited               429  too many requests
    ├── Unavailable               503  a part of the server is not ready
    │   └── Unreadable            503  a secret cannot be opened: waiting does not help
    ├── StaleHead                  -   an append named a head that has moved: read on, decide again
    ├── Fenced                     -   an append named an epoch that has passed: stop
    ├── ModelError                 -   a model call failed (see its `code`)
    └── ToolError                  -   a tool call failed; the model is told

HTTP statuses are mapped in `api/kernel/problems.py` only.
"""

from __future__ import annotations

from typing import ClassVar


class PerdureError(Exception):
    """The root. `code` is a stable snake_case word; `message` is for a person and never holds a secret."""

    code: str = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, code: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        if code is not None:
            self.code = code


class InvalidInput(PerdureError):
    """The request cannot be understood or breaks a rule.

    `field` is the path of the offending field, if one is known.
    """

    code = "invalid_request"

    def __init__(self, message: str, *, code: str | None = None, field: str | None = None) -> None:
        super().__init__(message, code=code)
        self.field = field


class InvalidId(InvalidInput):
    """A text in an id's place that is not an id of that kind."""

    code = "invalid_id"

    def __init__(self, prefix: str, field: str | None = None) -> None:
        where = f"`{field}` must be" if field else "expected"
        super().__init__(f"{where} an id of the form {prefix}_<32 lower-case hex digits>", field=field)


class Unauthenticated(PerdureError):
    code = "unauthenticated"


class Forbidden(PerdureError):
    code = "forbidden"


class NotFound(PerdureError):
    """`what` names the kind of thing, in lower case: "session"."""

    code = "not_found"

    def __init__(self, what: str, *, code: str | None = None) -> None:
        super().__init__(f"no such {what}", code=code or f"{what.replace(' ', '_')}_not_found")


class Conflict(PerdureError):
    code = "conflict"


class PreconditionFailed(PerdureError):
    code = "precondition_failed"


class TooLarge(PerdureError):
    code = "too_large"


class HeadersTooLarge(PerdureError):
    code = "headers_too_large"


class UnsupportedMedia(PerdureError):
    code = "unsupported_media_type"


class RateLimited(PerdureError):
    code = "rate_limited"
    retryable = True


class Unavailable(PerdureError):
    code = "unavailable"
    retryable = True


class Unreadable(Unavailable):
    retryable = False


class StaleHead(PerdureError):
    """The log has grown since it was read (promise P3).

    Not a failure: read the new events and decide again.
    """

    code = "stale_head"
    retryable = True

    def __init__(self) -> None:
        super().__init__("the session's log has moved on")


class Fenced(PerdureError):
    """Another runner, a cancel or a delete has taken the session over (promise P3).

    Stop without another word.
    """

    code = "fenced"

    def __init__(self) -> None:
        super().__init__("the session is no longer this runner's")


class ModelError(PerdureError):
    """A model call failed.

    Codes: `provider_rate_limited`, `provider_auth`, `provider_unavailable`, `provider_timeout`,
        `provider_bad_response`,
    `context_length_exceeded`, `invalid_model_request`, `model_not_found`, `content_filtered`,
    `quota_exceeded`, `model_not_configured`.

    Args:
        message: what the vendor said, cut to 500 characters, without credentials.
        code: one of the codes above.
        transient: whether the same call may succeed later (429, 5xx, a broken stream).
        retry_after: seconds to wait first, where the vendor named them.
        status: the vendor's HTTP status, if there was one.
    """

    code = "provider_unavailable"

    def __init__(
        self,
        message: str,
        *,
        code: str,
        transient: bool = False,
        retry_after: float | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message[:500], code=code, retry_after=retry_after)
        self.transient = transient
        self.status = status


class ToolError(PerdureError):
    """A tool refuses or fails; the message goes to the model as the call's error result."""

    code = "tool_error"
