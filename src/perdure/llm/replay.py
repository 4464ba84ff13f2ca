"""Recover from a vendor that rejects stored reasoning.

Vendors sign or encrypt reasoning blocks and bind them to the model, the account and, recently, the exact
history before them. If one of these has changed, the vendor rejects this call and every later one. The
documented fix is to resend the history without those blocks. The driver does this itself, not as an engine
retry, because nothing has been generated yet.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from perdure.domain.errors import ModelError
from perdure.llm.driver import ModelRequest, ModelResponse

MAX_REMEMBERED = 10_000
"""Maximum number of conversations remembered; a forgotten one costs one more rejected call."""

_REFUSED = re.compile(
    r"thinking`? (or|block)|signature|encrypted.content|of type 'reasoning'|reasoning['`]? item",
    re.IGNORECASE,
)


class Replay:
    """Remembers which conversations to send without the reasoning of their older messages."""

    def __init__(self) -> None:
        self._bare_through: dict[str, str] = {}

    async def answer(
        self, request: ModelRequest, call: Callable[[int], Awaitable[ModelResponse]]
    ) -> ModelResponse:
        """Make a call, and once more without any reasoning if the vendor rejects that.

        Args:
            request: the call.
            call: makes it; receives how many messages, counted from the first, go without their reasoning.

        Raises:
            ModelError: the call failed otherwise, or again.
        """
        bare = self.bare(request)
        try:
            return await call(bare)
        except ModelError as error:
            if not self.refused(request, error, bare):
                raise
        return await call(len(request.messages))

    def bare(self, request: ModelRequest) -> int:
        """Return how many messages, counted from the first, to send without their reasoning."""
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
        """Whether the vendor rejected the reasoning. If so, remember to leave out all of it from now on.

        Args:
            request: the call.
            error: the call's error.
            bare: how many messages were sent without their reasoning.
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
