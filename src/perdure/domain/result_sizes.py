"""Size tool results to a model's window: each gets a share of it, those of one answer two shares together.

The log keeps the results whole. They are cut when the prompt is built, always in the same way, so that the
vendors' prompt caches stay warm.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from msgspec.structs import replace

from perdure.domain.messages import Message, ToolResultPart
from perdure.domain.texts import without_middle
from perdure.domain.tokens import characters_for, text_tokens

LEAST_SHARE = 64
"""Tokens that a result keeps, however small the window is."""

PART = 3
"""A result gets at most this part of the conversation's budget."""

TOGETHER = 2
"""The shares that the results of one answer get together."""

SLACK = 32
"""Tokens of a mark and a few words more, for which a result is not cut."""

RESULT_FILES = "/.outputs/result-"
"""The beginning of the paths of files with a client's whole results."""

_WHERE = re.compile(r"; all of it is in [^\]\n]{1,1200} (?=\.\.\.\])")
"""The file with the whole output, in the mark of an earlier cut."""


def share_of(budget: int) -> int:
    """The tokens of one result, for a conversation with this budget: a power of two.

    So it seldom changes when the budget does, and with it the text of earlier results.
    """
    return max(LEAST_SHARE, 1 << max((budget // PART).bit_length() - 1, 0))


def limits_of(sizes: Sequence[int], share: int) -> list[int]:
    """The tokens that the results of one answer may have, by their sizes. Small ones leave room to others."""
    left, limits = share * TOGETHER, list(sizes)
    for count, index in enumerate(sorted(range(len(sizes)), key=sizes.__getitem__)):
        fair = max(min(share, left // (len(sizes) - count)), LEAST_SHARE)
        limits[index] = min(sizes[index], fair)
        left -= limits[index]
    return limits


def share_for(sizes: Sequence[int]) -> int:
    """The share for which none of the results of one answer is cut."""
    return max(max(sizes, default=0), -(-sum(sizes) // TOGETHER))


def file_of(message: Message) -> str:
    """The path of the file for the whole result of this message."""
    return f"{RESULT_FILES}{message.id[-16:]}.txt"


def text_of_result(message: Message) -> str:
    """The result's text; empty for an error, or a value that is no text."""
    part = message.content[0] if message.content else None
    return part.result if isinstance(part, ToolResultPart) and isinstance(part.result, str) else ""


def where_of(path: str) -> str:
    """The part of a mark that names the file with the whole output."""
    return f"; all of it is in {path}, for read_file with `offset` and `limit`, or grep_files"


def cut_result(message: Message, tokens: int, files: AbstractSet[str] = frozenset()) -> Message:
    """The message of a tool result with at most about this many tokens.

    Args:
        files: the paths of the files with whole results.
    """
    path = file_of(message)
    where = where_of(path) if path in files else ""
    content = tuple(
        replace(part, result=_cut_value(part.result, tokens, where), error=_cut_error(part.error, tokens))
        if isinstance(part, ToolResultPart)
        else part
        for part in message.content
    )
    return replace(message, content=content)


def _cut_value(value: Any, tokens: int, where: str) -> Any:
    if isinstance(value, str):
        return cut_text(value, tokens, where)
    if isinstance(value, list):
        return [
            {**item, "text": cut_text(item["text"], tokens)}
            if isinstance(item, dict) and isinstance(item.get("text"), str)
            else item
            for item in value
        ]
    return value


def _cut_error(error: str | None, tokens: int) -> str | None:
    return None if error is None else cut_text(error, tokens)


def cut_text(text: str, tokens: int, where: str = "") -> str:
    """The text without its middle if it has more tokens.

    The mark says where the whole text is: in the file that `where` or an earlier mark names.
    """
    if text_tokens(text) <= tokens + SLACK:
        return text
    earlier = _WHERE.search(text)
    place = earlier[0].rstrip() if earlier else where
    return without_middle(
        text, characters_for(text, tokens), lambda left: f"\n[... {left} characters left out{place} ...]\n"
    )
