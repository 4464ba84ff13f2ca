"""Estimate how many tokens a text has, without a tokenizer.

Vendors' tokenizers differ, and loading one takes longer and more memory than a server may use. The estimate
errs on the high side; what it is off for one conversation is learned from the usage of its answers.
"""

from __future__ import annotations

CHARACTERS_PER_TOKEN = 4
"""Of English text."""

DENSE = 2
"""Characters per token of text that has few spaces and many different characters, such as base64, and of
numbers."""

SAMPLED = 1_000
"""The least characters of a text that is examined for density; shorter texts matter little."""
PIECE = 128
"""Characters of each of the two pieces that are examined."""
LEAST_VARIETY = 20
"""Distinct characters of dense text: repetition is cheap for tokenizers."""
WORD = 40
"""Characters per space or line break above which a text is dense."""


def text_tokens(text: str) -> int:
    """Estimate the tokens of a text: about 1 for 4 letters of English, and 1 for each Chinese character."""
    length = len(text)
    if text.isascii():
        return length // (DENSE if length >= SAMPLED and _is_dense(text) else CHARACTERS_PER_TOKEN)
    ascii_length = len(text.encode("ascii", "ignore"))
    # Beyond the first, each byte of a character in UTF-8 counts half a token: Cyrillic letters and accents
    # have one more, Chinese characters two, emoji three.
    more = len(text.encode("utf-8", "replace")) - length
    return ascii_length // CHARACTERS_PER_TOKEN + (more + 1) // 2


def _is_dense(text: str) -> bool:
    length = len(text)
    pieces = [text[at : at + PIECE] for at in (length // 4, length // 2)]
    sample = "".join(pieces).encode()
    if (len(sample) - len(sample.translate(None, b"0123456789"))) * 3 > 2 * PIECE:
        return True
    if text.count(" ", 0, length // 4) * WORD >= length:
        return False  # as in most texts, a quarter has spaces enough for the whole
    few_spaces = (text.count(" ") + text.count("\n")) * WORD < length
    return few_spaces and min(len(set(piece)) for piece in pieces) >= LEAST_VARIETY


def characters_for(text: str, tokens: int) -> int:
    """How many characters of this text have about this many tokens."""
    return len(text) * tokens // max(text_tokens(text), 1)
