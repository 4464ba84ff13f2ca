"""`GET /metrics`: the metrics of this process, in the text format of Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from perdure.api.kernel.asgi import NOT_STORED
from perdure.api.kernel.call import Call, Reply
from perdure.api.kernel.route import Route, route
from perdure.app.backlog import CachedBacklog
from perdure.domain.accounts import require
from perdure.domain.errors import Forbidden
from perdure.domain.ids import OrgId
from perdure.domain.instruments import Histogram, Instrument, Values, instruments_of
from perdure.domain.metrics import Metrics

if TYPE_CHECKING:
    from prometheus_client.core import Metric

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class Snapshot(Struct, frozen=True):
    """The values of an instrument at one moment: a thread can read them while the process goes on."""

    instrument: Instrument
    values: Mapping[Values, float | Sequence[float]]


def snapshot(metrics: Metrics) -> list[Snapshot]:
    """Copy the values of all instruments."""
    found = []
    for each in instruments_of(metrics):
        values: Mapping[Values, float | Sequence[float]]
        if isinstance(each, Histogram):
            values = {labels: tuple(counts) for labels, counts in each.values.items()}
        else:
            values = dict(each.values)
        found.append(Snapshot(each, values))
    return found


def text_of(found: Sequence[Snapshot]) -> bytes:
    """Write metrics in the text format. Imports the library at the first use; takes a while: for a thread."""
    from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest

    class Ours:
        """What the library asks for our metrics."""

        def collect(self) -> Iterable[Metric]:
            return map(_family, found)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Ours())
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return generate_latest(registry)


def _family(each: Snapshot) -> Metric:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    instrument = each.instrument
    if isinstance(instrument, Histogram):
        family = HistogramMetricFamily(instrument.name, instrument.help, labels=instrument.labels)
        for labels, counts in each.values.items():
            if isinstance(counts, Sequence):
                family.add_metric(labels, _buckets(instrument.bounds, counts), counts[-1])
        return family
    kind = CounterMetricFamily if instrument.kind == "counter" else GaugeMetricFamily
    simple = kind(instrument.name, instrument.help, labels=instrument.labels)
    for labels, value in each.values.items():
        if not isinstance(value, Sequence):
            simple.add_metric(labels, value)
    return simple


def _buckets(bounds: Sequence[float], counts: Sequence[float]) -> list[tuple[str, float]]:
    """Return the buckets as the format has them: each with all that are below it."""
    total, found = 0.0, []
    for bound, count in zip((*(str(float(each)) for each in bounds), "+Inf"), counts, strict=False):
        total += count
        found.append((bound, total))
    return found


class Scrapes:
    """Answers the requests for metrics.

    Args:
        refresh: sets the gauges that are read when somebody asks.
    """

    def __init__(self, metrics: Metrics, backlog: CachedBacklog, refresh: Callable[[], None]) -> None:
        self._metrics = metrics
        self._backlog = backlog
        self._refresh = refresh

    async def text(self) -> bytes:
        """Return the metrics as text."""
        metrics, waiting = self._metrics, await self._backlog.read()
        self._refresh()
        metrics.parked.clear()
        if waiting is not None:
            metrics.queued.set(waiting.jobs)
            metrics.active.set(waiting.active)
            for kind, count in waiting.parked.items():
                metrics.parked.set(count, kind)
        else:
            metrics.queued.clear()
            metrics.active.clear()
        return await asyncio.to_thread(text_of, snapshot(metrics))


def metrics_route(scrapes: Scrapes, operator: OrgId | None) -> Route:
    """Build the route.

    Args:
        operator: the organization whose administrators may read the metrics, which are about all
            organizations; None for a port of their own, which needs no login.
    """

    @route("GET", "/metrics", "system", public=operator is None, content="text/plain")
    async def get_metrics(call: Call) -> Reply:
        """Get the metrics of this process, in the text format of Prometheus."""
        if operator is not None:
            if call.caller.organization_id != operator:
                raise Forbidden(
                    "the metrics are about all organizations: they are for administrators of the first one",
                    code="operators_only",
                )
            require(call.caller, "admin")
        return Reply(await scrapes.text(), content_type=CONTENT_TYPE, headers=(NOT_STORED,))

    return get_metrics
