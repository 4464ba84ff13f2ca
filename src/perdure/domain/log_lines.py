"""Lines of the server's log: as text for people or JSON for programs, in either case one line for a record.

No text in a line can control a terminal, and secrets that can be recognized are left out.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from textwrap import indent
from typing import Any

from perdure.domain.visible import visible, visible_line

TRACE = "trace"
"""The attribute of a record with a traceback that was made, and redacted, before it was logged."""
CLEAN = "clean"
"""The attribute of a record in which nothing was written by others, so that nothing has to be escaped."""
FIELDS = "fields"
"""The attribute of a record with its fields: ids, codes and numbers by name, never what users wrote."""

Field = str | int | float
"""The value of a field."""

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
"""The format of a text line, without its fields."""

_SHORTEST = 8
"""Characters of the shortest secret that is looked for: shorter ones are in too many other words."""
_TOKENS = re.compile(
    r"(?P<ours>\bpdr_(?:[a-z]{2,3}_)?)[\w-]{6,}"
    r"|\b(?:bearer\s+|sk-|gsk_|xai-|ghp_|AIza|AKIA)[\w*.~+/=-]{8,}"
    r"|(?P<user>://[^\s/:@\"']{0,200}:)[^\s/@\"']{1,200}@",
    re.IGNORECASE,
)
_PLAIN = re.compile(r"[\w.:/{}+@#-]+")


def fields(**values: Field | None) -> dict[str, dict[str, Field]]:
    """Return the `extra` of a record with these fields, without those that are None."""
    return {FIELDS: {name: value for name, value in values.items() if value is not None}}


class LogSecrets:
    """Removes secrets from the lines of a log: known values, and whatever looks like a token or a password.

    Args:
        known: the values of secrets; short ones are ignored.
    """

    def __init__(self, known: Iterable[str] = ()) -> None:
        values = sorted({each for each in known if len(each) >= _SHORTEST}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, values))) if values else None

    def are_in(self, text: str) -> bool:
        """Whether the text has something that looks like a secret."""
        return self.remove(text) != text

    def remove(self, text: str) -> str:
        """Return the text without secrets."""
        if self._known is not None:
            text = self._known.sub("[redacted]", text)
        return _TOKENS.sub(_without, text)


def _without(found: re.Match[str]) -> str:
    if found["ours"]:
        return f"{found['ours']}..."
    return f"{found['user']}...@" if found["user"] else "[redacted]"


def secret_values(environment: Mapping[str, str]) -> list[str]:
    """Return the values of an environment's variables whose names say that they are secrets."""
    return [value for name, value in environment.items() if _SECRET_NAME.search(name)]


_SECRET_NAME = re.compile(r"(?i)(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(_PREVIOUS)?$")


class LogFormatter(logging.Formatter):
    """Formats records as text. Escapes what clients, models and vendors wrote: newlines, too.

    Args:
        form: the line before the fields.
        secrets: what is removed; by default, what looks like a secret.
    """

    def __init__(self, form: str = "%(message)s", secrets: LogSecrets | None = None) -> None:
        super().__init__(form)
        self._secrets = secrets or LogSecrets()
        self._second, self._time = -1, ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 (as above)
        """Return the local time, which is computed once a second."""
        second = int(record.created)
        if second != self._second:
            self._second, self._time = second, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
        return f"{self._time},{int(record.msecs):03d}"

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the base class's name)
        """Format the record without its traceback, in one line."""
        line = super().formatMessage(record)
        found: Mapping[str, Field] | None = getattr(record, FIELDS, None)
        if found and hasattr(record, CLEAN):
            return line + "".join([f" {name}={value}" for name, value in found.items()])
        if found:
            line += "".join(f" {name}={_shown(value)}" for name, value in found.items())
        return visible_line(line)

    def format(self, record: logging.LogRecord) -> str:
        """Format the record, with its traceback if it has one."""
        if hasattr(record, CLEAN):
            return super().format(record)
        trace = getattr(record, TRACE, None)
        # Indented, so that no line of an exception's message looks like a record.
        below = "" if trace is None else f"\n{indent(str(trace).rstrip(), '  ')}"
        return visible(self._secrets.remove(super().format(record) + below))


class JsonLogFormatter(logging.Formatter):
    """Formats records as JSON objects: `time`, `level`, `logger`, `message`, and the record's fields.

    What the message names by name is a field, too. A traceback is in `trace`. The object is ASCII, so that
    nothing in it can control a terminal.
    """

    def __init__(self, secrets: LogSecrets | None = None) -> None:
        super().__init__()
        self._secrets = secrets or LogSecrets()
        self._second, self._time = -1, ""

    def format(self, record: logging.LogRecord) -> str:
        """Format the record, with its traceback if it has one."""
        line: dict[str, Field] = {
            "time": self._rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if hasattr(record, CLEAN):
            line |= {**_named(record), **getattr(record, FIELDS, {})}
            return json.dumps(line)
        line["message"] = self._secrets.remove(record.getMessage())
        found: Mapping[str, Field] | None = getattr(record, FIELDS, None)
        for name, value in (*_named(record).items(), *(found or {}).items()):
            line.setdefault(name, self._secrets.remove(value) if isinstance(value, str) else value)
        trace = getattr(record, TRACE, None)
        if trace is None and record.exc_info:
            trace = self.formatException(record.exc_info)
        if trace is not None:
            line["trace"] = self._secrets.remove(str(trace).rstrip())
        return json.dumps(line)

    def _rfc3339(self, seconds: float) -> str:
        second = int(seconds)
        if second != self._second:
            self._second, self._time = second, f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}"
        return f"{self._time}.{int((seconds - second) * 1000):03d}Z"


def _named(record: logging.LogRecord) -> Mapping[str, Any]:
    """What the record's message names by name."""
    return record.args if isinstance(record.args, Mapping) else {}


def _shown(value: Field) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
