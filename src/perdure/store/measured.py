"""A database whose reads and writes are measured."""

from __future__ import annotations

import time

from perdure.domain.errors import Unavailable
from perdure.domain.metrics import Metrics
from perdure.store.database import Body, Database, T
from perdure.store.wrapped import WrappedDatabase


class MeasuredDatabase(WrappedDatabase):
    """A database that notes how long callers waited.

    Args:
        inner: the database.
    """

    def __init__(self, inner: Database, metrics: Metrics) -> None:
        super().__init__(inner)
        self._wait = metrics.database_wait
        self._faults = metrics.database_faults

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
