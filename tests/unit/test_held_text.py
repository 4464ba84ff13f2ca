"""What is shown of a streamed text before all of it is there, and checked."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable, Sequence
from typing import Protocol

from perdure.domain.held_text import Cut, HeldText, masked


class Find(Protocol):
    """A `Search` that begins at the beginning by default."""

    def __call__(self, text: str, start: int = 0, /) -> Sequence[Cut]: ...


EAGER = (1, 1)
"""Steps that let go as early as is safe, so that short texts show what longer ones do."""


def searching(*checks: tuple[str, str | None]) -> Find:
    """Finds all matches of these patterns, each with its mask."""
    patterns = [(re.compile(pattern), mask) for pattern, mask in checks]

    def search(text: str, start: int = 0) -> Sequence[Cut]:
        return [Cut(*m.span(), mask) for pattern, mask in patterns for m in pattern.finditer(text, start)]

    return search


def shown(pieces: Iterable[str], search: Find, window: int | None) -> str:
    """What is let go of a text in these pieces. `window`: the characters of the longest match."""
    hold = HeldText(search, None if window is None else window + 1, steps=EAGER)
    let_go = "".join([hold.feed(piece) for piece in pieces])
    assert let_go == hold.shown
    return let_go


def splits(text: str) -> Iterable[list[str]]:
    """All ways to cut a text into pieces."""
    for cuts in itertools.product((False, True), repeat=len(text) - 1):
        pieces = [text[0]]
        for cut, letter in zip(cuts, text[1:], strict=True):
            if cut:
                pieces.append(letter)
            else:
                pieces[-1] += letter
        yield pieces


def test_no_piece_of_a_blocked_word_is_shown_however_the_text_is_split() -> None:
    search = searching(("secret", None))
    for pieces in splits("ab secret c"):
        let_go = shown(pieces, search, 6)
        assert "ab secret c".startswith(let_go)
        assert len(let_go) <= 3, pieces


def test_a_masked_match_is_shown_as_its_mask_however_the_text_is_split() -> None:
    search = searching((r"\d{2,4}", "#"))
    text = "a 12345 b 9"
    whole = masked(text, search(text))
    assert whole == "a #5 b 9"
    for pieces in splits(text):
        assert whole.startswith(shown(pieces, search, 4)), pieces


def test_text_without_a_match_is_shown_but_for_the_window() -> None:
    hold = HeldText(searching(("secret", None)), 6 + 1, steps=EAGER)
    assert "".join(map(hold.feed, "nothing of interest in it")) == "nothing of interes"


def test_a_word_that_goes_on_is_no_match_of_the_whole_word() -> None:
    search = searching((r"\bcat\b", None))
    for text in ("a catalogue of all that", "concatenated by it all", "scat scat scat scat"):
        assert len(shown(text, search, 3)) == len(text) - 4
    assert "a cat sleeps on the mat".startswith(shown("a cat sleeps on the mat", search, 3))
    assert len(shown("a cat sleeps on the mat", search, 3)) <= 2


def test_the_beginning_of_the_text_is_not_the_beginning_of_every_search() -> None:
    search = searching((r"^b", None), (r"(?m)^z", "#"))
    assert shown("a b b b b b b b b", search, 1) == "a b b b b b b b"
    assert shown("a z\nz zz\nz zzzzzz", search, 1) == "a z\n# zz\n# zzzz"


def test_matches_that_overlap_are_masked_as_in_the_whole_text() -> None:
    rng = random.Random(15)
    checks = (("ab+a?", "<1>"), ("ba{1,3}", "<2>"), ("cab", "<3>"), ("aa", "<4>"))
    search = searching(*checks)

    def limited(text: str, start: int = 0) -> Sequence[Cut]:
        return [cut for cut in search(text, start) if cut.end - cut.begin <= 6]

    for _ in range(1_500):
        text = "".join(rng.choice("aabbc ") for _ in range(rng.randrange(4, 40)))
        if len(limited(text)) != len(search(text)):
            continue  # longer than what the window was declared for
        pieces = re.findall(f".{{1,{rng.randrange(1, 9)}}}", text)
        whole = masked(text, limited(text))
        assert whole.startswith(shown(pieces, limited, 6)), (text, pieces)


def test_a_match_of_unknown_length_holds_everything_back() -> None:
    assert shown(["a", "b" * 100], searching(("x", None)), None) == ""


def test_matches_without_end_are_held_back_and_not_searched_again_and_again() -> None:
    searched = 0

    def search(text: str, start: int) -> Sequence[Cut]:
        nonlocal searched
        searched += len(text)
        # Each match overlaps the next one, so there is never a place to begin anew.
        return [Cut(at, at + 2, "#") for at in range(start, len(text) - 1)]

    hold = HeldText(search, 2)
    for _ in range(1_000):
        hold.feed("a" * 1_000)
    assert hold.shown == ""
    assert searched < 1_000_000


def test_searching_costs_as_much_as_the_text_is_long() -> None:
    searched = 0

    def search(text: str, start: int) -> Sequence[Cut]:
        nonlocal searched
        searched += len(text)
        return ()

    hold = HeldText(search, 40)
    for _ in range(1_000):
        hold.feed("word ")
    assert len(hold.shown) > 4_900
    assert searched < 20_000


def test_what_was_searched_without_a_match_need_not_be_searched_again() -> None:
    for mask in (None, "#"):
        hold = HeldText(searching(("x", mask)), 2)
        for _ in range(50):
            hold.feed("word ")
        assert hold.clean == len(hold.shown) > 200
        for piece in ("x", *["word "] * 40):
            hold.feed(piece)
        assert hold.clean == 0


def test_the_end_of_a_text_shows_the_rest_unless_it_is_blocked() -> None:
    for text, mask, rest in (("ab x", "#", "ab #"), ("ab x", None, ""), ("ab", None, "ab"), ("", None, "")):
        hold = HeldText(searching(("x", mask)), 9)
        assert hold.feed(text) == ""
        assert hold.finish() == rest
    assert HeldText(searching(("x", None)), None).finish() == ""
