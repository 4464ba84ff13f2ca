"""Differences between two texts, line by line, in bounded time."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Sign = Literal[" ", "-", "+"]

MAX_EDITS = 400
"""Lines that are removed or added. Beyond it, all changed lines are shown as one removal and one addition."""
CONTEXT = 3
"""Unchanged lines that are shown around a change."""


class Change(Struct, frozen=True):
    """A line that stays, goes or comes, with its line ending; or a count of unchanged lines left out."""

    sign: Sign
    line: str
    skipped: int = 0


def diff(before: str, after: str) -> list[Change]:
    """Return the changes from one text to the other, with some unchanged lines around them.

    Takes time in proportion to the length of the texts, also for texts that somebody made to be slow.
    """
    old, new = lines_of(before), lines_of(after)
    start = _common(old, new)
    end = _common(old[start:][::-1], new[start:][::-1])
    middle_old, middle_new = old[start : len(old) - end], new[start : len(new) - end]
    middle = _shortest(middle_old, middle_new)
    if middle is None:
        middle = [Change("-", line) for line in middle_old] + [Change("+", line) for line in middle_new]
    same_before = [Change(" ", line) for line in old[:start]]
    same_after = [Change(" ", line) for line in old[len(old) - end :]]
    return _folded([*same_before, *middle, *same_after])


def lines_of(text: str) -> list[str]:
    """Split a text into lines that keep their ending. Only a newline ends a line."""
    lines = [f"{line}\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]


def _common(one: list[str], other: list[str]) -> int:
    shorter = min(len(one), len(other))
    return next((index for index in range(shorter) if one[index] != other[index]), shorter)


def _shortest(old: list[str], new: list[str]) -> list[Change] | None:
    """The shortest list of changes (Myers' greedy algorithm); None if it has more than `MAX_EDITS`."""
    reached = {1: 0}  # for each diagonal, the furthest line of `old`
    history = []
    for edits in range(MAX_EDITS + 1):
        history.append(dict(reached))
        for diagonal in range(-edits, edits + 1, 2):
            at = _step(reached, diagonal, edits)
            while at < len(old) and at - diagonal < len(new) and old[at] == new[at - diagonal]:
                at += 1
            reached[diagonal] = at
            if at >= len(old) and at - diagonal >= len(new):
                return _traced(old, new, history)
    return None


def _step(reached: dict[int, int], diagonal: int, edits: int) -> int:
    """Where one more edit leads on a diagonal: an added line stays in `old`, a removed one moves on."""
    return reached[diagonal + 1] if _adds(reached, diagonal, edits) else reached[diagonal - 1] + 1


def _adds(reached: dict[int, int], diagonal: int, edits: int) -> bool:
    if abs(diagonal) == edits:
        return diagonal == -edits
    return reached[diagonal - 1] < reached[diagonal + 1]


def _traced(old: list[str], new: list[str], history: list[dict[int, int]]) -> list[Change]:
    """Walk back from the end to the beginning; returns the changes in order."""
    changes: list[Change] = []
    x, y = len(old), len(new)
    for edits in range(len(history) - 1, -1, -1):
        reached, diagonal = history[edits], x - y
        start = _step(reached, diagonal, edits)
        while x > start:
            x, y = x - 1, y - 1
            changes.append(Change(" ", old[x]))
        if edits and _adds(reached, diagonal, edits):
            y -= 1
            changes.append(Change("+", new[y]))
        elif edits:
            x -= 1
            changes.append(Change("-", old[x]))
    return changes[::-1]


def _folded(changes: list[Change]) -> list[Change]:
    """Replace unchanged lines far from a change by their number."""
    near = [False] * len(changes)
    for index, change in enumerate(changes):
        if change.sign != " ":
            for each in range(max(0, index - CONTEXT), min(len(changes), index + CONTEXT + 1)):
                near[each] = True
    folded: list[Change] = []
    skipped = 0
    for change, kept in zip(changes, near, strict=True):
        if not kept:
            skipped += 1
            continue
        if skipped:
            folded.append(Change(" ", "", skipped))
            skipped = 0
        folded.append(change)
    return [*folded, Change(" ", "", skipped)] if skipped else folded
