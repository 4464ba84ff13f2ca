"""What operators see of a running server: its requests in the log, and its metrics."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from perdure import __version__
from perdure.api.kernel.access import Access
from perdure.api.kernel.asgi import Headers
from perdure.api.kernel.connections import ConnectionLimits, Connections
from perdure.api.kernel.http import Api
from perdure.app.backlog import CachedBacklog
from perdure.domain.accounts import Caller
from perdure.domain.errors import Unauthenticated
from perdure.doors.prometheus import Scrapes, metrics_route
from perdure.listening import http_server, listen
from perdure.logs import LogWriter
from perdure.settings import Settings
from perdure.wiring import Parts
from perdure.worker.watchdog import watching
from perdure.worker.worker import Worker

SCRAPERS = 32
"""The most connections to the port of the metrics."""


class Observed:
    """The log of requests and the metrics of one server."""

    def __init__(self, parts: Parts, worker: Worker, writer: LogWriter) -> None:
        self._app, self._worker, self._writer = parts.app, worker, writer
        self._connections: Connections | None = None
        self.metrics = parts.app.metrics
        self.access = Access(self.metrics)
        self.scrapes = Scrapes(self.metrics, CachedBacklog(parts.app), self._refresh)
        self.metrics.info.set(1, __version__, parts.database.dialect)

    def connections(self, limits: ConnectionLimits) -> Connections:
        """Return what holds the server's connections, which the metrics count."""
        self._connections = Connections(limits, self.access)
        return self._connections

    def _refresh(self) -> None:
        metrics, now = self.metrics, self._app.now()
        metrics.running.set(self._worker.running)
        metrics.connections.set(0 if self._connections is None else len(self._connections))
        for state in ("open", "half_open"):
            metrics.breakers.set(self._app.breakers.count(state, now), state)
        metrics.log_dropped.set(self._writer.dropped)

    @contextlib.asynccontextmanager
    async def served(self, settings: Settings) -> AsyncIterator[None]:
        """Watch the event loop, and serve the metrics on a port of their own, if one is set.

        Raises:
            Unavailable: the port cannot be listened on.
        """
        with watching(metrics=self.metrics):
            if not settings.metrics_port:
                yield
                return
            listener = listen(settings.metrics_host, settings.metrics_port, "PERDURE_METRICS_PORT")
            limits = ConnectionLimits(
                SCRAPERS, settings.request_timeout_seconds, settings.write_timeout_seconds
            )
            connections = Connections(limits, self.access)
            api = Api(self._app, (metrics_route(self.scrapes, None),), _nobody, self.access)
            server = http_server(api, connections, settings.keep_alive_seconds)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            sweeping = asyncio.create_task(connections.run())
            try:
                yield
            finally:
                server.should_exit = True
                sweeping.cancel()
                await serving


async def _nobody(_headers: Headers, _anywhere: bool) -> Caller:
    raise Unauthenticated("this port serves /metrics only")
