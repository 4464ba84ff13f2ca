"""Lines of the server's log: one record is one line, and no text in it can control a terminal."""

from __future__ import annotations

import logging
from textwrap import indent

from perdure.domain.visible import visible, visible_line

TRACE = "trace"
"""The attribute of a record with a traceback that was made, and redacted, before it was logged."""


class LogFormatter(logging.Formatter):
    """Formats records. Escapes what clients, models and vendors wrote: newlines too, except in tracebacks."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the base class's name)
        """Format the record without its traceback, in one line."""
        return visible_line(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        """Format the record, with its traceback if it has one."""
        trace = getattr(record, TRACE, None)
        # Indented, so that no line of an exception's message looks like a record.
        below = "" if trace is None else f"\n{indent(str(trace).rstrip(), '  ')}"
        return visible(super().format(record) + below)
