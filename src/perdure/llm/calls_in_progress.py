"""Tool calls whose arguments are still arriving."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from perdure.domain.ids import ToolCallId
from perdure.domain.tool_arguments import ArgumentsBudget
from perdure.llm.answer_json import parsed_arguments
from perdure.llm.answer_values import sound, written

_MAX_NAME = 1_000
"""Characters of a call's name, which is cut later. Each piece of a longer one would copy it."""


class CallInProgress:
    """A tool call whose arguments are still arriving.

    Attributes:
        index: the call's number, if its server numbers calls.
        initial: arguments that came with the call's beginning.
        arguments: pieces, in order.
        final: arguments that came as a whole.
        watch: called with the call and each new piece of its arguments, if somebody wants to see them.
    """

    __slots__ = ("_size", "arguments", "extra", "final", "id", "index", "initial", "name", "watch")

    def __init__(self, call_id: str | None, name: str | None, index: int | None = None) -> None:
        self.id = ToolCallId(sound(call_id or ""))
        self.name = sound(name or "").strip()
        self.index = index
        self._size = 0
        self.initial = ""
        self.arguments: list[str] = []
        self.final = ""
        self.extra: Any = None
        self.watch: Callable[[CallInProgress, str], None] | None = None

    def add(self, piece: object) -> None:
        """Append a piece of the arguments; an object is the whole of them."""
        if isinstance(piece, str):
            self.arguments.append(piece)
            self._size += len(piece)
            if self.watch is not None:
                self.watch(self, piece)
        else:
            self.complete(piece)

    def complete(self, whole: object) -> None:
        """Set the arguments as a whole: text, or an object. Nothing, if there is none."""
        text = written(whole)
        if text and not text.isspace():
            self.final = text

    def name_it(self, name: str) -> None:
        """Set or complete the name, which may arrive in pieces or repeatedly."""
        name = name.strip()
        if name and name != self.name and len(self.name) <= _MAX_NAME:
            self.name = sound(name if name.startswith(self.name) else self.name + name)

    def says(self, text: str) -> bool:
        """Whether the arguments so far are this text. It costs no more than the text is long."""
        if text in (self.final, self.initial, self.arguments[-1] if self.arguments else ""):
            return True
        return len(text) == self._size and text == "".join(self.arguments)

    @property
    def has_arguments(self) -> bool:
        """Whether any arguments have come."""
        return any(text and not text.isspace() for text in (self.final, self.initial, *self.arguments))

    def text(self, budget: ArgumentsBudget | None = None) -> str:
        """Return the arguments from wherever they are most complete.

        Args:
            budget: what the calls of the answer may still cost, where they are all looked at.
        """
        joined = "".join(self.arguments)
        texts = [self.final, joined, self.initial + joined if joined else "", self.initial]
        if len(self.arguments) > 1 and joined.startswith("{}"):
            texts.append(joined[2:])  # the first piece said that there are no arguments yet
        if len(self.arguments) > 1 and all(b.startswith(a) for a, b in pairwise(self.arguments)):
            texts.append(self.arguments[-1])  # each piece repeats the ones before it
        texts = [text for text in dict.fromkeys(texts) if text and not text.isspace()]
        if len(texts) < 2:
            return texts[0] if texts else ""
        best, rank = "", 3
        for text in texts:
            found = _rank(text, budget or ArgumentsBudget())
            if found < rank:
                best, rank = text, found
            if not rank:
                break
        return best


def _rank(text: str, budget: ArgumentsBudget) -> int:
    """Order candidates: arguments before a text that is not JSON, and that before no arguments."""
    if budget.refusal(text) is not None:
        return 1  # it is not decoded at all
    value = parsed_arguments(text)
    return 1 if not isinstance(value, dict) else 0 if value else 2
