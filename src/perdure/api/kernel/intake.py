"""The memory of request bodies that are arriving: clients that send slowly must not fill it together."""

from __future__ import annotations

from collections import Counter

from perdure.domain.errors import Unavailable
from perdure.domain.ids import OrgId

MOST, EACH = 256_000_000, 128_000_000
"""Bytes of all bodies that have arrived in part, and of those of one organization."""


class Intake:
    """Counts the bytes of bodies that have arrived in part, by organization."""

    def __init__(self, most: int = MOST, each: int = EACH) -> None:
        self._most, self._each = most, each
        self._held: Counter[OrgId] = Counter()

    def open(self, org_id: OrgId) -> Arrival:
        """Begin to count a body."""
        return Arrival(self, org_id)

    def add(self, org_id: OrgId, size: int) -> None:
        """Count more bytes. Raises Unavailable: too much is arriving."""
        if self._held[org_id] + size > self._each or self._held.total() + size > self._most:
            raise Unavailable(
                "too many large bodies are arriving at once: send this one again later",
                code="too_many_uploads",
                retry_after=5,
            )
        self._held[org_id] += size

    def remove(self, org_id: OrgId, size: int) -> None:
        """Count fewer bytes."""
        self._held[org_id] -= size
        if not self._held[org_id]:
            del self._held[org_id]


class Arrival:
    """The count of one body."""

    __slots__ = ("_intake", "_org_id", "_size")

    def __init__(self, intake: Intake, org_id: OrgId) -> None:
        self._intake, self._org_id = intake, org_id
        self._size = 0

    def add(self, size: int) -> None:
        """Count a part. Raises Unavailable: too much is arriving."""
        self._intake.add(self._org_id, size)
        self._size += size

    def close(self) -> None:
        """Count the body no more."""
        if self._size:
            self._intake.remove(self._org_id, self._size)
