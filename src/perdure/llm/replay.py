"""Reasoning that a vendor refuses to read back.

Vendors sign or encrypt reasoning blocks and bind them to the model, the account and, lately, to the exact
history before them. When any of these has changed, they refuse the whole call, and would refuse every later
one. The way out that they document: send the history once more without those blocks. That is not another
attempt of the engine's: nothing has been generated yet.
"""

from __future__ import annotations

import re

from perdure.domain.errors import ModelError
from perdure.llm.driver import ModelRequest

MAX_REMEMBERED = 10_000
"""Conversations remembered; a forgotten one costs one more refused call."""

_REFUSED = re.compile(
    r"thinking`? (or|block)|signature|encrypted.content|of type 'reasoning'|reasoning['`]? item",
    re.IGNORECASE,
)


class Replay:
    """Which conversations must be sent without the reasoning of their older messages."""

    def __init__(self) -> None:
        self._bare_through: dict[str, str] = {}

    def bare(self, request: ModelRequest) -> int:
        """How many of the request's messages, from the first, go without their reasoning."""
        if not self._bare_through or request.cache_key is None:
            return 0
        last = self._bare_through.get(request.cache_key)
        messages = request.messages
        return (
            0
            if last is None
            else next((n for n in range(len(messages), 0, -1) if messages[n - 1].id == last), 0)
        )

    def refused(self, request: ModelRequest, error: ModelError, bare: int) -> bool:
        """Whether it was the reasoning that the vendor refused. If so, all of it goes from now on.

        Args:
            request: the call.
            error: how it failed.
            bare: how many messages went without.
        """
        if error.status != 400 or error.code != "invalid_model_request" or not _REFUSED.search(error.message):
            return False
        if not any(message.reasoning_items for message in request.messages[bare:]):
            return False
        if request.cache_key is not None:
            self._bare_through.pop(request.cache_key, None)
            self._bare_through[request.cache_key] = request.messages[-1].id
            if len(self._bare_through) > MAX_REMEMBERED:
                del self._bare_through[next(iter(self._bare_through))]
        return True
