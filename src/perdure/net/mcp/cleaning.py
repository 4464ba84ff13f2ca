"""What a server says, fit for an error or the log: short, and without what it was sent in confidence."""

from __future__ import annotations

from collections.abc import Iterable

from perdure.domain.mcp_wire import text_in
from perdure.domain.redaction import Redactor

SAID = 500
"""Characters of a server's text in an error."""
SHORTEST = 8
"""Characters of the shortest word of a header that is taken for a secret."""
_SEARCHED = 4
"""How many times as many characters are searched for secrets as are kept."""


class Cleaner:
    """Makes a server's text fit for an error.

    Args:
        secrets: what must not be in it, in whatever form: the server may repeat it, escaped or in base64.
        what: how the text calls a secret.
    """

    def __init__(self, secrets: Iterable[str], what: str) -> None:
        self._secrets = tuple({each for each in secrets if len(each) >= SHORTEST})
        self._what = what

    def __call__(self, text: str, limit: int = SAID) -> str:
        """Return the text without hidden characters and secrets, and cut it last, or half a secret stays."""
        said = text_in(text, limit * _SEARCHED)
        if not self._secrets:
            return said[:limit]
        # Made here and not kept: few servers ever say anything that becomes an error.
        redactor = Redactor({f"{self._what} {number}": each for number, each in enumerate(self._secrets, 1)})
        return redactor.text(said, cut=True)[:limit]
