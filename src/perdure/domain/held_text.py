"""Text that is checked while it streams: a piece is let go once no match can begin in it any more.

A match has at most `window` characters. So a match that is not seen yet begins in the last `window`
characters, and what is before them can be shown. Only the text that is held back is searched again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

STEPS = (16, 96)
"""The least characters that are let go at once: at first, so that the text begins to show, and later, when a
search for each token would cost more than it shows."""

MAX_CHAIN = 20_000
"""Characters of matches that overlap each other in a row. More are held back until the text is complete.
Also the most that are searched at once, with what is held back."""


class Cut(Struct, frozen=True):
    """A match: where it is, and what takes its place.

    None: the whole text must not be shown. If nothing takes its place, what follows is shown at the end.
    """

    begin: int
    end: int
    mask: str | None = None


Search = Callable[[str, int], Sequence[Cut]]
"""Finds all matches in a text from a place on, in any order. What is before the place decides only whether a
word or a line begins there."""


def masked(text: str, cuts: Iterable[Cut]) -> str:
    """The text with masks in place of these matches. Of overlapping ones, the first mask stands for all."""
    pieces: list[str] = []
    done = 0
    for cut in sorted(cuts, key=lambda cut: (cut.begin, -cut.end)):
        if cut.begin >= done:
            pieces += (text[done : cut.begin], cut.mask or "")
        done = max(done, cut.end)
    return "".join((*pieces, text[done:]))


class HeldText:
    """One stream of text.

    Args:
        search: the checks.
        window: the characters of the longest match, and its neighbours; None to hold everything back.
        context: how many neighbours before a match decide whether it is one.
        steps: by default, as `STEPS`, or up to the window if that is longer.
        most: instead of `MAX_CHAIN`, where a search takes long.

    Attributes:
        shown: what was let go so far, with masks.
        clean: the characters from the beginning in which no match begins; 0 if one does.
    """

    def __init__(
        self,
        search: Search,
        window: int | None,
        context: int = 1,
        steps: tuple[int, int] | None = None,
        most: int = MAX_CHAIN,
    ) -> None:
        self._most, self._again = most, 0
        self._search, self._window, self._size = search, window, context
        self._step, self._longest_step = steps or (STEPS[0], max(STEPS[1], window or 0))
        self._held = ""
        self._context = ""
        """The characters before the held ones."""
        self._pieces: list[str] = []
        self._closed = window is None
        self.clean = 0
        self._found = False

    @property
    def shown(self) -> str:
        return "".join(self._pieces)

    def feed(self, text: str) -> str:
        """Add a piece; return what can be shown now."""
        if len(text) <= self._most:
            return self._feed(text)
        return "".join(self._feed(text[at : at + self._most]) for at in range(0, len(text), self._most))

    def _feed(self, text: str) -> str:
        if self._closed or self._window is None:
            return ""
        self._held += text
        # A match is certain once what follows the longest form of it is known.
        ready = len(self._held) - self._window
        if ready < self._step or len(self._held) < self._again:
            return ""
        self._step = min(2 * self._step, self._longest_step)
        out = self._let_go(ready, self._window + self._step + self._most)
        if out:
            self._pieces.append(out)
        return out

    def finish(self) -> str:
        """End the text; return what can be shown of the rest."""
        return "" if self._closed else self._let_go(len(self._held) + 1, len(self._held))

    def _let_go(self, ready: int, most: int) -> str:
        """Let go of what is before `ready`, and keep at most so many characters."""
        held, shift = self._held, len(self._context)
        found = self._search(self._context + held, shift)
        if found:
            return self._let_go_of(
                [Cut(cut.begin - shift, cut.end - shift, cut.mask) for cut in found], ready, most
            )
        return self._moved(held, ready, held[:ready])

    def _let_go_of(self, cuts: list[Cut], ready: int, most: int) -> str:
        held, certain, end = self._held, [], ready
        self._found = self._found or any(cut.begin < ready for cut in cuts)
        for cluster in _clusters(cut for cut in cuts if cut.end > cut.begin):
            if cluster[0].begin >= ready:
                break
            if any(cut.begin >= ready for cut in cluster):
                end = cluster[0].begin  # it may go on: no search may begin in the middle of it
                break
            if not all(cut.mask for cut in cluster):
                # Without the match, its neighbours may be one: only the whole text says.
                return self._close()
            certain += cluster
            end = max(end, *(cut.end for cut in cluster))
        if len(held) - end > most:
            return self._close()
        return self._moved(held, end, masked(held[:end], certain))

    def _moved(self, held: str, end: int, out: str) -> str:
        self._context, self._held = (self._context + held[:end])[-self._size :], held[end:]
        # Where matches overlap in a row, searching for each piece would cost the square of the text's length.
        self._again = 0 if end else len(held) + len(held) // 2
        self.clean = 0 if self._found else self.clean + end
        return out

    def _close(self) -> str:
        self._closed, self._held, self.clean = True, "", 0
        return ""


def _clusters(cuts: Iterable[Cut]) -> Iterable[list[Cut]]:
    """The cuts in order, those that overlap in one list."""
    cluster: list[Cut] = []
    end = 0
    for cut in sorted(cuts, key=lambda cut: (cut.begin, -cut.end)):
        if cluster and cut.begin >= end:
            yield cluster
            cluster = []
        cluster.append(cut)
        end = max(end, cut.end)
    if cluster:
        yield cluster
