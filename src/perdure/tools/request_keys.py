"""Which effect of a call each HTTP request of its tool is, and the key that it is sent with (promise P10)."""

from __future__ import annotations

from hashlib import blake2b

from perdure.domain.effects import key_here, part_key
from perdure.net.tool_http import OwnRequest

_ASKS_AGAIN = frozenset({408, 409, 425, 429})
"""Statuses of an answer that leaves the request to be repeated; those from 500 do, too."""


class RequestKeys:
    """The keys of the requests of one attempt of a call.

    The first request has the key of the call, or of the step that makes it. The following ones have keys
    derived from that by their number: another request must not be taken for a repetition of the first. All
    are the same in every attempt.

    A request that is sent again, because it got no answer, keeps its key and takes no number. The attempt
    after a crash may need no repetition, and must not count differently.
    """

    def __init__(self, call_key: str) -> None:
        self._call_key = call_key
        self._counts: dict[str, int] = {}
        self._open: dict[tuple[str, bytes], list[str]] = {}

    def take(self, request: OwnRequest) -> tuple[str, str] | None:
        """Return the key of what the request belongs to, and its own; None if it must not have any."""
        under = key_here(self._call_key)
        if under is None or not request.may_change:
            return None
        if self._open:
            keys = self._open.get((under, _digest(request)))
            if keys:
                return under, keys.pop(0)
        number = self._counts[under] = self._counts.get(under, 0) + 1
        # No step can have such a name.
        return under, under if number == 1 else part_key(under, f"#{number}")

    def answered(self, request: OwnRequest, taken: tuple[str, str], status: int | None) -> None:
        """Note the status of a request's answer; None if there was no answer."""
        if status is None or status >= 500 or status in _ASKS_AGAIN:
            under, key = taken
            self._open.setdefault((under, _digest(request)), []).append(key)


def _digest(request: OwnRequest) -> bytes:
    """What two requests have in common if one repeats the other. Headers may differ, such as a new token."""
    digest = blake2b(f"{request.method} {request.url}\n".encode("utf-8", "replace"), digest_size=16)
    digest.update(request.body or b"")
    return digest.digest()
