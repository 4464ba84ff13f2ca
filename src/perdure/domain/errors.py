"""All errors, in one tree.

    PerdureError                  code, message, retryable
    ├── InvalidInput              400  the caller can fix it
    │   └── InvalidId             400  not an id of the expected kind
    ├── Unauthenticated           401  missing or invalid credentials
    ├── Forbidden                 403  authenticated, but not allowed
    ├── NotFound                  404  does not exist, or belongs to another organization: the same answer
    ├── Conflict                  409  the resource's state does not allow the request
    ├── PreconditionFailed        412  the resource has changed since the caller read it
    ├── Gone                      410  the resource existed or never did, and is not there any more
    ├── TooLarge                  413  over a size limit
    ├── UnsupportedMedia          415  the server cannot read this kind of body
    ├── HeadersTooLarge           431  the part before the body is over its size limit
    ├── RateLimited               429  too many requests
    ├── Unavailable               503  a part of the server is not ready
    │   ├── Undiscovered          503  a capability that the turn needs cannot find its tools
    │   └── Unreadable            503  a secret cannot be decrypted: a retry does not help
    ├── Damaged                   409  a row in the database cannot be decoded
    │   └── UnreadableEvent       409  it is an event's
    ├── StaleHead                  -   the log has grown since the append's `head`: read it and decide again
    ├── Fenced                     -   the append's epoch is over: stop
    ├── ModelError                 -   a model call failed (see its `code`)
    └── ToolError                  -   a tool call failed; the model gets the message
        └── OutcomeUnknown         -   nobody knows whether it took effect

Only `api/kernel/problems.py` maps errors to HTTP statuses.
"""

from __future__ import annotations

from typing import ClassVar


class PerdureError(Exception):
    """The root of the tree.

    Args:
        message: what is wrong and how to fix it, for people. It never contains a secret.
        code: a stable snake_case identifier; by default the class's own.
        retry_after: seconds to wait before a retry, if known.
    """

    code: str = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, code: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = str(message)  # authors of tools pass exceptions, too
        self.retry_after = retry_after
        if code is not None:
            self.code = code


class InvalidInput(PerdureError):
    """The request is malformed or breaks a rule. `field` is the path of the offending field, if known."""

    code = "invalid_request"

    def __init__(self, message: str, *, code: str | None = None, field: str | None = None) -> None:
        super().__init__(message, code=code)
        self.field = field


class InvalidId(InvalidInput):
    """The text is not an id of the expected kind."""

    code = "invalid_id"

    def __init__(self, prefix: str, field: str | None = None) -> None:
        where = f"`{field}` must be" if field else "expected"
        super().__init__(f"{where} an id of the form {prefix}_<32 lower-case hex digits>", field=field)


class Unprocessable(InvalidInput):
    """The request is well-formed, and the document in it breaks the rules of its format."""


class Unauthenticated(PerdureError):
    code = "unauthenticated"


class Forbidden(PerdureError):
    code = "forbidden"


class NotFound(PerdureError):
    """The resource does not exist. `what` names its kind in lower case: "session"."""

    code = "not_found"

    def __init__(self, what: str, *, code: str | None = None) -> None:
        super().__init__(f"no such {what}", code=code or f"{what.replace(' ', '_')}_not_found")


class Conflict(PerdureError):
    code = "conflict"


class PreconditionFailed(PerdureError):
    code = "precondition_failed"


class UnsatisfiableRange(PerdureError):
    """A request asks for bytes that do not exist.

    Attributes:
        total: how many bytes there are.
    """

    code = "unsatisfiable_range"

    def __init__(self, total: int) -> None:
        super().__init__(f"no byte is in the range: there are {total}")
        self.total = total


class Gone(PerdureError):
    code = "gone"


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
    """A part of the server is not ready.

    Args:
        cause: why, as a stable snake_case word for health checks.
        unknown: whether the change may have been made nevertheless: the answer to a commit was lost. If not,
            nothing has changed.
    """

    code = "unavailable"
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retry_after: float | None = None,
        cause: str = "unavailable",
        unknown: bool = False,
    ) -> None:
        super().__init__(message, code=code, retry_after=retry_after)
        self.cause = cause
        self.unknown = unknown


class Undiscovered(Unavailable):
    """A capability without which the turn must not continue cannot find its tools."""

    code = "discovery_failed"
    retryable = False


class Unreadable(Unavailable):
    retryable = False


class Damaged(PerdureError):
    """A row in the database cannot be decoded. `what` it is of names a resource."""

    code = "row_damaged"

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} cannot be read: its row in the database is damaged. "
            "Tell the server's administrator, who can restore a backup"
        )


class UnreadableEvent(Damaged):
    """A logged event cannot be decoded: its row is damaged, or a newer release wrote it."""

    code = "event_unreadable"

    def __init__(self, session_id: str, sequence: int, kind: str) -> None:
        PerdureError.__init__(
            self,
            f"event {sequence} ({kind[:100]!r}) of the session {session_id} cannot be read: its row in the "
            "database is damaged. Fork the session from an earlier event, or tell the server's administrator",
        )


class StaleHead(PerdureError):
    """The log has grown since the runner read it (promise P3): read the new events and decide again."""

    code = "stale_head"
    retryable = True

    def __init__(self) -> None:
        super().__init__("the session's log has grown since it was read")


class Fenced(PerdureError):
    """Another runner, a cancel or a delete has taken over the session (promise P3): stop, append nothing."""

    code = "fenced"

    def __init__(self) -> None:
        super().__init__("this runner has lost its claim on the session")


class OverBudget(PerdureError):
    """Another model call was faster to reserve the rest of a budget: plan the call again."""

    def __init__(self, budget_id: str) -> None:
        super().__init__(f"the budget {budget_id} has changed since the call was planned")


class ModelError(PerdureError):
    """A model call failed.

    Codes: `provider_rate_limited`, `provider_auth`, `provider_unavailable`, `provider_timeout`,
    `provider_bad_response`, `context_length_exceeded`, `invalid_model_request`, `model_not_found`,
    `content_filtered`, `empty_answer`, `quota_exceeded`, `model_not_configured`, `provider_misconfigured`.

    Args:
        message: the vendor's message without credentials; truncated to 500 characters.
        code: one of the codes above.
        transient: whether a retry may succeed (429, 5xx, a broken stream).
        retry_after: seconds to wait before the retry, if the vendor named them.
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

    def saying(self, message: str) -> ModelError:
        """Return the same failure with another message."""
        return ModelError(
            message,
            code=self.code,
            transient=self.transient,
            retry_after=self.retry_after,
            status=self.status,
        )


class ToolError(PerdureError):
    """A tool call was refused or failed; the model gets the message as the call's error."""

    code = "tool_error"


class OutcomeUnknown(ToolError):
    """A tool cannot tell whether its effect took place: the model is told to look before it tries again."""

    code = "outcome_unknown"
