"""Checks a database: every log against the rows that were written with it, and rows against one another.

Nothing is changed, and servers may be running: each part is read at one moment. Memory is bounded by a page
of a log, and by the tasks, ratings and participants of one session.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar

from perdure.app.log_fold import LogFold
from perdure.domain.verification import Difference, Verified
from perdure.store import verify as reads
from perdure.store.database import Tx

T = TypeVar("T")


class Snapshots(Protocol):
    """Reads of a database, each of one moment."""

    def snapshot(self) -> AbstractAsyncContextManager[Tx]:
        """Begin a read."""
        ...


class Verification:
    """One check of a database.

    Args:
        snapshots: the database.
        report: called with each difference.
        progress: called with what is being checked, how much of it, and how much there is; 0 if nobody knows.
    """

    def __init__(
        self,
        snapshots: Snapshots,
        report: Callable[[Difference], None],
        progress: Callable[[str, int, int], None],
    ) -> None:
        self._snapshots = snapshots
        self._report = report
        self._progress = progress
        self._sessions = self._events = self._contents = self._differences = 0

    async def run(self, *, contents: bool = False) -> Verified:
        """Check everything.

        Args:
            contents: also read the contents of all files, and compare their hashes.
        """
        await self._logs()
        for what in (reads.check_counts, reads.check_references, reads.check_slots, reads.check_budgets):
            self._progress("comparing rows", 0, 0)
            self._tell(await self._read(what))
        self._tell(await self._read(reads.check_orphans))
        for check in (reads.check_workspaces, reads.check_memories):
            await self._pages(check)
        await self._all_contents(whole=contents)
        for org_id, segment in await self._read(reads.segments):
            self._progress("checking the search index", segment, 0)
            self._tell(await self._read(lambda tx, o=org_id, s=segment: reads.check_segment(tx, o, s)))  # type: ignore[misc]
        return Verified(self._sessions, self._events, self._contents, self._differences)

    async def _read(self, body: Callable[[Tx], Awaitable[T]]) -> T:
        async with self._snapshots.snapshot() as tx:
            return await body(tx)

    def _tell(self, differences: Iterable[Difference]) -> None:
        for each in differences:
            self._differences += 1
            self._report(each)

    async def _logs(self) -> None:
        after: str | None = ""
        while after is not None:
            async with self._snapshots.snapshot() as tx:
                after = await self._some_logs(tx, after)

    async def _some_logs(self, tx: Tx, after: str) -> str | None:
        """Check the next sessions at one moment; return the last one, None at the end."""
        migrated = await reads.applied_migrations(tx)
        rows = await reads.sessions_after(tx, after)
        more = len(rows) == reads.PAGE
        async for each in self._lost_logs(tx, after, rows[-1].id if more else None):
            self._tell([each])
        for row in rows:
            fold = LogFold(row, migrated)
            await fold.run(tx)
            self._tell(fold.differences)
            self._sessions, self._events = self._sessions + 1, self._events + fold.events
            self._progress("checking sessions", self._sessions, 0)
        return rows[-1].id if more else None

    async def _lost_logs(self, tx: Tx, after: str, until: str | None) -> AsyncIterator[Difference]:
        last: str | None = after
        while last is not None:
            lost, last = await reads.logs_without_session(tx, last, until)
            for session_id in lost:
                yield Difference("log", "there are events of a session that does not exist", None, session_id)

    async def _pages(
        self, check: Callable[[Tx, str], Awaitable[tuple[list[Difference], str | None]]]
    ) -> None:
        after: str | None = ""
        while after is not None:
            async with self._snapshots.snapshot() as tx:
                found, after = await check(tx, after)
            self._tell(found)

    async def _all_contents(self, *, whole: bool) -> None:
        after: tuple[str, str] | None = ("", "")
        while after is not None:
            async with self._snapshots.snapshot() as tx:
                found, count, after = await reads.check_contents(tx, after, whole=whole)
            self._tell(found)
            self._contents += count
            self._progress("checking contents", self._contents, 0)
