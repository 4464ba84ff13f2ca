"""Work on the same thing that comes at the same time, and is done together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from msgspec import Struct

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
Work = Callable[[list[Item]], Awaitable[list[Outcome]]]

AT_ONCE = 32
"""The most items that are worked on together."""


class _Entry(Struct, eq=False):
    """An item, and what becomes of it: its outcome, or None inside a tuple if it has to be done alone."""

    item: Any
    outcome: asyncio.Future[tuple[Any] | None]


class Together:
    """Items that came at the same time, by key: whoever is first works on all of them.

    Nobody waits for work that has begun already: it may take long, and what came later may depend on it.
    """

    def __init__(self) -> None:
        self._gathered: dict[str, list[_Entry]] = {}

    async def work_on(self, key: str, item: Item, work: Work[Item, Outcome]) -> Outcome:
        """Work on an item, with others of the same key; return its outcome.

        Args:
            work: returns the outcomes of items, in their order. If it fails for several, or is cancelled, it
                is repeated for each of the others alone.
        """
        entry = _Entry(item, asyncio.get_running_loop().create_future())
        gathered = self._gathered.setdefault(key, [])
        gathered.append(entry)
        if len(gathered) == AT_ONCE:
            del self._gathered[key]
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            gathered.remove(entry)
            raise
        finally:
            if self._gathered.get(key) is gathered:
                del self._gathered[key]
        if gathered[0] is entry:
            await _work_on_all([*gathered], work)
        outcome = await entry.outcome
        found: Outcome = (await work([item]))[0] if outcome is None else outcome[0]
        return found


async def _work_on_all(entries: list[_Entry], work: Work[Any, Any]) -> None:
    """Work on entries that were gathered; they have to be done alone if that fails."""
    outcomes: list[tuple[Any] | None] = [None] * len(entries)
    try:
        with contextlib.suppress(Exception):  # one of them must not fail the others: each is tried alone
            if len(entries) > 1:
                outcomes = [(each,) for each in await work([entry.item for entry in entries])]
    finally:
        for entry, outcome in zip(entries, outcomes, strict=True):
            if not entry.outcome.done():
                entry.outcome.set_result(outcome)
