"""What a model receives about a command or program that ran: its output, its exit code and some notes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from perdure.domain.messages import JsonObject
from perdure.domain.redaction import Redactor

MAX_NOTES = 20
"""Notes of a kind that the model gets one by one; the rest are only counted."""


class Output(Protocol):
    """What a command wrote, and how it ended."""

    @property
    def exit_code(self) -> int: ...

    @property
    def stdout(self) -> str: ...

    @property
    def stderr(self) -> str: ...

    @property
    def truncated(self) -> bool: ...


def few(*kinds: Sequence[str]) -> list[str]:
    """Of each kind of notes the first ones, and how many more there are. No kind hides another."""
    shown: list[str] = []
    for notes in kinds:
        shown += notes[:MAX_NOTES]
        if len(notes) > MAX_NOTES:
            shown.append(f"... and {len(notes) - MAX_NOTES} more notes like these")
    return shown


def answer_of(output: Output, notes: list[str], redactor: Redactor) -> JsonObject:
    """The answer for the model. A secret that the truncation has cut is blanked in it."""
    stdout, stderr = output.stdout, output.stderr
    if output.truncated:
        stdout, stderr = redactor.text(stdout, cut=True), redactor.text(stderr, cut=True)
    answer: JsonObject = {"exit_code": output.exit_code}
    if stderr:
        answer["stderr"] = stderr
    if notes:
        answer["notes"] = notes
    return answer | {"stdout": stdout}
