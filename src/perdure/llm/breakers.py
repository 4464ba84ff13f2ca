"""Circuit breakers: which models have failed just now, as far as this process has seen.

A breaker decides only which model is called first. A model without an alternative is called whatever its
breaker says: a turn that waits for its retries is better than one that fails.
"""

from __future__ import annotations

from collections import OrderedDict

from msgspec import Struct

from perdure.domain.errors import ModelError
from perdure.domain.ids import ModelId
from perdure.domain.processes import BreakerReport
from perdure.domain.providers import BreakerState, ModelHealth
from perdure.domain.times import Micros, to_rfc3339

THRESHOLD = 5
"""Failures in a row after which a breaker opens."""
FIRST_OPEN = 30.0
MOST_OPEN = 300.0
"""For how long, in seconds: first, and at most; twice as long after each failed probe."""
PROBE = 30.0
"""Seconds for which one probe keeps others away. If it is never heard of again, the next call is one."""
FORGOTTEN = 900.0
"""Seconds after which a breaker that nobody has tried since it became half-open is forgotten."""
MAX_BREAKERS = 10_000
"""The most breakers in memory. Only models that have failed have one."""

_SECOND = 1_000_000


class _Breaker(Struct):
    """A model's failures since its last success.

    Attributes:
        version: its provider's, whose changes close the breaker.
        opened_at, seconds: when it opened last, and for how long; 0 seconds: it is closed.
        probed_at: when the last probe began.
        failure: the code and the message of the last failure.
    """

    version: int
    failures: int = 0
    opened_at: Micros = 0
    seconds: float = 0.0
    probed_at: Micros | None = None
    failure: tuple[str, str] = ("", "")

    def state(self, now: Micros) -> BreakerState:
        if not self.seconds:
            return "closed"
        # The clock may have gone back: such a breaker is tried.
        return "open" if self.opened_at <= now < self.until() else "half_open"

    def until(self) -> Micros:
        return self.opened_at + round(self.seconds * _SECOND)

    def is_forgotten(self, now: Micros) -> bool:
        return bool(self.seconds) and now >= self.until() + round(FORGOTTEN * _SECOND)


class Breakers:
    """The breakers of one process, by model. All times are in microseconds.

    Transactions in other threads read it: only the event loop adds and removes breakers.
    """

    def __init__(self, capacity: int = MAX_BREAKERS) -> None:
        self._capacity = capacity
        self._known: OrderedDict[ModelId, _Breaker] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def _of(self, model_id: ModelId, version: int, now: Micros) -> _Breaker | None:
        """The model's breaker; None if there is none, or one from before its provider was changed."""
        found = self._known.get(model_id)
        if found is None or found.version != version or found.is_forgotten(now):
            return None
        return found

    def state(self, model_id: ModelId, version: int, now: Micros) -> BreakerState:
        """Return the state of a model's breaker. `version` changes with its provider's settings."""
        found = self._of(model_id, version, now)
        return "closed" if found is None else found.state(now)

    def admits(self, model_id: ModelId, version: int, now: Micros) -> bool:
        """Return whether to call this model rather than another one.

        If the breaker is half-open, the call is its probe: others are not admitted meanwhile.
        """
        admitted, found = self.would_admit(model_id, version, now), self._of(model_id, version, now)
        if admitted and found is not None and found.state(now) == "half_open":
            found.probed_at = now
        return admitted

    def would_admit(self, model_id: ModelId, version: int, now: Micros) -> bool:
        """Return whether `admits` would say yes now."""
        found = self._of(model_id, version, now)
        if found is None or (state := found.state(now)) == "closed":
            return True
        probing = found.probed_at is not None and 0 <= now - found.probed_at < PROBE * _SECOND
        return state == "half_open" and not probing

    def succeeded(self, model_id: ModelId, version: int) -> None:
        """Note that the model's server has answered, if only with a refusal: this closes the breaker."""
        if not self._is_outdated(model_id, version):
            self._known.pop(model_id, None)

    def _is_outdated(self, model_id: ModelId, version: int) -> bool:
        """Whether a call with this version began before a change of the provider, and says nothing of it."""
        found = self._known.get(model_id)
        return found is not None and found.version > version

    def failed(
        self, model_id: ModelId, version: int, error: ModelError, said: str, now: Micros, far: float
    ) -> None:
        """Note that a call has failed, for a reason that may pass.

        Args:
            said: the error's message, without secrets.
            far: seconds. If the server asks for a longer wait, the breaker opens at once, until its end.
        """
        if self._is_outdated(model_id, version):
            return
        found = self._of(model_id, version, now) or _Breaker(version)
        self._known[model_id] = found
        self._known.move_to_end(model_id)
        if len(self._known) > self._capacity:
            self._known.popitem(last=False)
        probed = found.state(now) == "half_open"
        found.failures += 1
        found.failure = error.code, said
        wait = error.retry_after if error.retry_after is not None and error.retry_after > far else 0.0
        if wait:
            found.opened_at, found.seconds, found.probed_at = now, wait, None
        elif probed:
            again = min(max(2 * found.seconds, FIRST_OPEN), MOST_OPEN)
            found.opened_at, found.seconds, found.probed_at = now, again, None
        elif found.failures >= THRESHOLD and not found.seconds:
            found.opened_at, found.seconds = now, FIRST_OPEN

    def health(self, model_id: ModelId, version: int, name: str, now: Micros) -> ModelHealth | None:
        """Return what to show of a model's breaker; None if its last call was answered."""
        found = self._of(model_id, version, now)
        if found is None:
            return None
        until = to_rfc3339(found.until()) if found.seconds else None
        return ModelHealth(model_id, name, found.state(now), found.failures, *found.failure, until)

    def reports(self, now: Micros, most: int) -> tuple[BreakerReport, ...]:
        """Return the breakers of models that fail, the last that failed first, for other processes."""
        found: list[BreakerReport] = []
        for model_id, each in reversed(self._known.items()):
            if len(found) == most:
                break
            if not each.is_forgotten(now):
                until = each.until() if each.seconds else 0
                state, code = each.state(now), each.failure[0]
                found.append(
                    BreakerReport(model_id, each.version, state, each.failures, code, each.opened_at, until)
                )
        return tuple(found)

    def count(self, state: BreakerState, now: Micros) -> int:
        """Return how many breakers are in this state, among those of models that have failed."""
        known = list(self._known.values())
        return sum(each.state(now) == state and not each.is_forgotten(now) for each in known)
