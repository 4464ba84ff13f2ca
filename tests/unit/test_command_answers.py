"""The notes on a command's outcome."""

from __future__ import annotations

from perdure.tools.command_answers import MAX_NOTES, few


def test_many_notes_of_one_kind_are_counted_and_hide_no_other_kind() -> None:
    failed = [f"/f{number} was not written" for number in range(MAX_NOTES + 5)]
    links = ["/top is a link", "/up is a link"]
    assert few(failed, links) == [*failed[:MAX_NOTES], "... and 5 more notes like these", *links]


def test_a_kind_without_notes_says_nothing() -> None:
    assert few([], ["/up is a link"], []) == ["/up is a link"]
