"""The port to a database as another one: what measures or watches a database changes only what it has to."""

from __future__ import annotations

from perdure.store.database import Body, Database, T
from perdure.store.faults import Fault


class WrappedDatabase:
    """Passes everything on.

    Args:
        inner: the database.
    """

    def __init__(self, inner: Database) -> None:
        self.dialect = inner.dialect
        self._inner = inner

    @property
    def traces(self) -> bool:
        """Whether this process exports traces."""
        return self._inner.traces

    @traces.setter
    def traces(self, traces: bool) -> None:
        self._inner.traces = traces

    @property
    def last_fault(self) -> Fault | None:
        """The last failure of a kind that lasts."""
        return self._inner.last_fault

    @last_fault.setter
    def last_fault(self, fault: Fault | None) -> None:
        self._inner.last_fault = fault

    async def write(self, body: Body[T], *, single: bool = False) -> T:
        return await self._inner.write(body, single=single)

    async def read(self, body: Body[T], *, long: bool = False, seconds: float | None = None) -> T:
        return await self._inner.read(body, long=long, seconds=seconds)

    async def scrub(self) -> bool:
        return await self._inner.scrub()

    async def close(self) -> None:
        await self._inner.close()
