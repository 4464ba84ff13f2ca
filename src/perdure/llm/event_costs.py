"""Refuses JSON of a model server that would take long to decode, before it is decoded.

A server sends what it likes, and all that it sends is decoded in one process for everybody.
"""

from __future__ import annotations

import re

from perdure.domain.json_costs import extremes_in, without_strings
from perdure.domain.tool_arguments import MAX_EXTREMES
from perdure.llm.failures import bad_response, redacted

MAX_VALUES = 50_000
"""Values of an event, outside of its texts. A model writes at most two for each three tokens, and no model
writes 75,000 tokens of numbers; what servers repeat of a request has fewer."""
LISTED_VALUES = 200_000
"""Values of a list of models: the longest has 25,000."""
MAX_DIGITS = 1_000
"""Digits of a number: the decoder reads a longer one several times."""
_NUMBER = re.compile(r"\d+")
_DIGITS = b"0123456789"
_SHORT = 4_096
"""Bytes of JSON that cannot cost much."""


def check_cost(
    data: bytes, what: str, values: int = MAX_VALUES, secrets: tuple[str, ...] | None = None
) -> None:
    """Check that JSON has few enough values, and few enough numbers that are slow to decode.

    Args:
        what: what it is, for the error.
        values: the most values.
        secrets: values that must not appear in the error, which quotes the beginning; None quotes nothing.

    Raises:
        ModelError: `provider_bad_response`.
    """
    problem = _problem(data, values)
    if problem is not None:
        text = data[:2_000].decode("utf-8", "replace")
        quoted = "" if secrets is None else f": {redacted(text, secrets)[:200]}"
        raise bad_response(f"{what} has {problem}{quoted}", transient=False)


def _problem(data: bytes, values: int) -> str | None:
    if len(data) <= _SHORT or not (_may_have_more(data, values) or _may_have_extremes(data)):
        return None
    bare = without_strings(data.decode("latin-1"))  # which keeps what is JSON's own
    plain = bare.encode("latin-1")
    if _may_have_more(plain, values):
        return f"more than {values} values"
    if not _may_have_extremes(plain):
        return None
    if extremes_in(bare, MAX_EXTREMES) > MAX_EXTREMES:
        return f"more than {MAX_EXTREMES} extreme numbers"
    if any(each.end() - each.start() > MAX_DIGITS for each in _NUMBER.finditer(bare)):
        return f"a number of more than {MAX_DIGITS} digits"
    return None


def _may_have_more(data: bytes, values: int) -> bool:
    return len(data) > values and data.count(b",") + data.count(b"[") + data.count(b"{") > values


def _may_have_extremes(data: bytes) -> bool:
    """Whether there are digits enough: each extreme number has three in its exponent, or 280."""
    return len(data) - len(data.translate(None, _DIGITS)) > 3 * MAX_EXTREMES
