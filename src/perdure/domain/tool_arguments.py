"""What stands in the log in place of a tool call's arguments that were too long or too costly to keep."""

from __future__ import annotations

from perdure.domain.json_costs import extremes_in, without_strings

_BEGIN = "[arguments left out: "

MAX_TEXT = 4_000_000
"""Characters of the arguments of an answer, as the model wrote them, that are decoded at all."""
MAX_EXTREMES = 1_000
"""Numbers with an exponent of three digits in an answer's arguments: 40 ms for each reader of the log."""
MAX_VALUES = 100_000
"""Values in the arguments of an answer: everything that looks at each of them takes about 0.3 s."""
_SHORT = 2_000
"""Characters of an answer's arguments that cannot cost much."""


def arguments_left_out(size: int, limit: int) -> str:
    """The text in place of arguments with this many characters, given the limit."""
    return (
        f"{_BEGIN}they have {size} characters, and the calls of one answer may have {limit} together. "
        "Write less at a time]"
    )


class ArgumentsBudget:
    """What the arguments of the calls of one answer may still cost."""

    def __init__(self) -> None:
        self._size = 0
        self._extremes = MAX_EXTREMES
        self._values = MAX_VALUES

    def refusal(self, text: str) -> str | None:
        """The text in place of arguments that must not be decoded; None if they may."""
        self._size += len(text)
        if self._size <= _SHORT:
            return None
        if self._size > MAX_TEXT:
            return arguments_left_out(self._size, MAX_TEXT)
        plain = without_strings(text)
        self._values -= plain.count(",")
        self._extremes -= extremes_in(plain, MAX_EXTREMES)
        if self._values >= 0 and self._extremes >= 0:
            return None
        return (
            f"{_BEGIN}the calls of one answer may have {MAX_VALUES} values together, and {MAX_EXTREMES} "
            "numbers with an exponent of three digits. Write less at a time, or such numbers as texts]"
        )


def why_not_an_object(arguments: str) -> str:
    """The error for the model when a call's arguments are a text instead of an object."""
    if arguments.startswith(_BEGIN):
        reason = arguments[len(_BEGIN) : -1]
        return f"The call was not made, because its arguments are too long or too costly: {reason}."
    return "The arguments are not valid JSON."
