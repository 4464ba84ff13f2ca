"""The line of what waits for a place, in which organizations take turns."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from perdure.domain.ids import OrgId

Item = TypeVar("Item")


class FairLine(Generic[Item]):
    """What waits, that of each organization in the order in which it came.

    Organizations take turns, however much of each waits. One that has had no place since the line began comes
    before those that have. Each operation takes constant time.
    """

    def __init__(self) -> None:
        self._items: dict[OrgId, deque[Item]] = {}
        self._first: deque[OrgId] = deque()
        """Organizations that have had no place yet."""
        self._others: deque[OrgId] = deque()
        self._served: set[OrgId] = set()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, org_id: OrgId, item: Item, *, has_place: bool) -> None:
        """Add what waits of an organization. `has_place`: whether something of it has a place now."""
        self._count += 1
        waiting = self._items.get(org_id)
        if waiting is not None:
            waiting.append(item)
            return
        self._items[org_id] = deque((item,))
        (self._others if has_place or org_id in self._served else self._first).append(org_id)

    def next(self) -> Item:
        """Take what is next. Raises IndexError if nothing waits."""
        org_id = (self._first or self._others).popleft()
        waiting = self._items[org_id]
        item = waiting.popleft()
        self._count -= 1
        if waiting:
            self._others.append(org_id)
        else:
            del self._items[org_id]
        if self._count:
            self._served.add(org_id)
        else:
            self._served.clear()
        return item
