"""Counters and histograms of this process, which others read now and then.

An update takes a fraction of a microsecond: it is on the way of every turn. They are used from the event
loop's thread only. The values of labels are bounded, so that no client can fill the memory.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

OTHER = "other"
"""The label of everything beyond a bound."""

Values = tuple[str, ...]


class Bounded:
    """The first values of a label; all others are `other`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def __call__(self, value: str) -> str:
        """Return the value as a label."""
        if value in self._known:
            return value
        if len(self._known) >= self._most:
            return OTHER
        value = value[:100]
        self._known.add(value)
        return value


class Counter:
    """Counts or sums what happens.

    Attributes:
        name: its name, without the unit's or the counter's suffix `_total`.
        help: what it counts, for people.
        labels: the names of its labels.
        values: the counts by the labels' values.
    """

    kind = "counter"

    def __init__(self, name: str, help_: str, labels: Sequence[str] = ()) -> None:
        self.name, self.help, self.labels = name, help_, tuple(labels)
        self.values: dict[Values, float] = {} if labels else {(): 0.0}

    def add(self, *labels: str, by: float = 1.0) -> None:
        """Count one, or add an amount."""
        self.values[labels] = self.values.get(labels, 0.0) + by


class Histogram:
    """Counts durations by their size.

    Attributes:
        bounds: the upper bounds of the buckets, in seconds; one without a bound follows.
        values: for the labels' values, the count of each bucket and then the sum.
    """

    kind = "histogram"

    def __init__(self, name: str, help_: str, bounds: Sequence[float], labels: Sequence[str] = ()) -> None:
        self.name, self.help, self.labels = name, help_, tuple(labels)
        self.bounds = tuple(bounds)
        self.values: dict[Values, list[float]] = {}
        if not labels:
            self.values[()] = [0.0] * (len(self.bounds) + 2)

    def observe(self, seconds: float, *labels: str) -> None:
        """Count one duration."""
        found = self.values.get(labels)
        if found is None:
            found = self.values[labels] = [0.0] * (len(self.bounds) + 2)
        found[bisect_left(self.bounds, seconds)] += 1
        found[-1] += seconds


class Gauge:
    """What is the case now.

    Attributes:
        values: the values by the labels' values.
    """

    kind = "gauge"

    def __init__(self, name: str, help_: str, labels: Sequence[str] = ()) -> None:
        self.name, self.help, self.labels = name, help_, tuple(labels)
        self.values: dict[Values, float] = {} if labels else {(): 0.0}

    def set(self, value: float, *labels: str) -> None:
        """Set the value."""
        self.values[labels] = value

    def move(self, by: float) -> None:
        """Add to the value of a gauge without labels."""
        self.values[()] = self.values.get((), 0.0) + by

    def clear(self) -> None:
        """Forget all values: they are not known."""
        self.values.clear()


Instrument = Counter | Histogram | Gauge


def instruments_of(holder: object) -> Iterable[Instrument]:
    """Return the instruments that an object holds, in their order."""
    return (each for each in vars(holder).values() if isinstance(each, Instrument))
