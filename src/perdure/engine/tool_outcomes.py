"""What comes of a tool call, in the turn or in the background: its output, or how it failed."""

from __future__ import annotations

import logging
import traceback

from msgspec import Struct

from perdure.capabilities.bound_tools import BoundTool
from perdure.capabilities.containment import Escaped
from perdure.capabilities.port import ToolOutcome
from perdure.domain.effects import UNCERTAIN
from perdure.domain.errors import OutcomeUnknown, PerdureError, Unavailable
from perdure.domain.events import FileWrittenData, ToolStatus
from perdure.domain.log_lines import TRACE
from perdure.domain.messages import ImagePart, storable
from perdure.domain.redaction import Redactor
from perdure.engine.interrupted import Interrupted
from perdure.engine.tool_output import RawOutput, json_of

log = logging.getLogger("perdure.act")

MAX_ERROR = 2_000
"""Characters of an error that the model receives."""

REJECTED = "rejected"
"""The error code of a call of a tool that a person has rejected for the whole session."""
REFUSED = "The user does not allow this tool to be called in this session."


class Failure(Struct, frozen=True):
    """How a call failed. `unknown`: nobody knows whether it took effect."""

    status: ToolStatus
    error: str
    unknown: bool = False


def error_text(redactor: Redactor, message: str) -> str:
    """An error message, redacted and then truncated: half a secret would not be recognized."""
    text = redactor.text(storable(message))
    return text if len(text) <= MAX_ERROR else f"{text[:MAX_ERROR]} ..."


def failure_of(
    redactor: Redactor, bound: BoundTool | None, name: str, error: Exception, seconds: float | None = None
) -> Failure:
    """What the model and the log say about a call that raised this, in the turn or in the background.

    Unless the tool says that it failed, a tool that changes something may have done so.

    Args:
        seconds: the time limit, if it is not the tool's own.
    """
    try:
        return _failure_of(redactor, bound, name, error, seconds)
    except Exception as odd:
        log.exception("the tool %s raised an exception that cannot be read", name)
        return _failure_of(redactor, bound, name, RuntimeError(type(odd).__name__), seconds)


def _failure_of(
    redactor: Redactor, bound: BoundTool | None, name: str, error: Exception, seconds: float | None
) -> Failure:
    """As `failure_of`; fails for an exception that cannot be looked at, because its class is the author's."""
    effects = bound is not None and not bound.tool.hints.readonly
    uncertain = f" {UNCERTAIN}" if effects else ""
    if isinstance(error, TimeoutError):
        limit = seconds or (bound.tool.timeout if bound else 0)
        text = f"The tool did not finish within {limit:g} seconds.{uncertain}"
        return Failure("timeout", text, effects)
    if isinstance(error, Interrupted):
        return Failure("interrupted", error_text(redactor, error.message), True)
    if isinstance(error, OutcomeUnknown):
        return Failure("error", f"{error_text(redactor, error.message)}{uncertain}", effects)
    if isinstance(error, PerdureError):
        text = error_text(redactor, error.message)
        if isinstance(error, Unavailable) and error.retryable:
            # The database became unavailable, possibly after the call had taken effect.
            return Failure("interrupted", f"{text}. {UNCERTAIN}", effects)
        return Failure("rejected" if error.code == REJECTED else "error", text)
    trace = redactor.text("".join(traceback.format_exception(error)))
    # `log.exception` would print the secrets that were just redacted.
    log.error("tool %s failed", name, extra={TRACE: trace})
    what = str(error) if isinstance(error, Escaped) else type(error).__name__
    return Failure("error", f"The tool failed: {what}.{uncertain}", effects)


def as_raw_output(outcome: ToolOutcome) -> RawOutput:
    """The outcome with its value as text that the database can store. Raises TypeError."""
    value, files = outcome.value, tuple(outcome.files)
    if not all(isinstance(file, FileWrittenData) for file in files):
        raise TypeError("`files` of a ToolOutcome are FileWrittenData")
    loads = tuple(outcome.loads)
    if not all(isinstance(name, str) for name in loads):
        raise TypeError("`loads` of a ToolOutcome are names of tools")
    images = tuple(outcome.images)
    if not all(isinstance(image, ImagePart) for image in images):
        raise TypeError("`images` of a ToolOutcome are ImageParts")
    if isinstance(value, str):
        value = storable(value)
        return RawOutput(value, value, files, loads, images)
    return RawOutput(value, json_of(value), files, loads, images)
