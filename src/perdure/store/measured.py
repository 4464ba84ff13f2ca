"""A database whose reads and writes are measured."""

from __future__ import annotations

import time

from perdure.domain.errors import Unavailable
from perdure.domain.metrics import Metrics
from perdure.store.database import Body, Database, T
from perdure.store.faults import Fault


class MeasuredDatabase:
    """The port to a database: passes everything on, and notes how long callers waited.

    Args:
        inner: the database.
    """

    def __init__(self, inner: Database, metrics: Metrics) -> None:
        self.dialect = inner.dialect
        self._inner = inner
        self._wait = metrics.database_wait
        self._faults = metrics.database_faults

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
        began = time.perf_counter()
        try:
            return await self._inner.write(body, single=single)
        except Unavailable as error:
            self._faults.add(error.cause or "other")
            raise
        finally:
            self._wait.observe(time.perf_counter() - began, "write")

    async def read(self, body: Body[T], *, long: bool = False, seconds: float | None = None) -> T:
        began = time.perf_counter()
        try:
            return await self._inner.read(body, long=long, seconds=seconds)
        except Unavailable as error:
            self._faults.add(error.cause or "other")
            raise
        finally:
            self._wait.observe(time.perf_counter() - began, "read" if seconds is None else "search")

    async def scrub(self) -> bool:
        return await self._inner.scrub()

    async def close(self) -> None:
        await self._inner.close()
