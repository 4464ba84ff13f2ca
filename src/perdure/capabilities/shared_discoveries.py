"""Results of discoveries that sessions share, for a minute or longer."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from perdure.capabilities.port import DISCOVERY_AGE, Discovered
from perdure.capabilities.tool_lists import ToolList, facts_of, list_of
from perdure.domain.ids import OrgId
from perdure.domain.times import Micros
from perdure.domain.weights import weight_of

FAILURE_AGE = 10.0
"""Seconds for which a discovery that failed is not attempted again."""
MAX_SHARED = 10_000
"""Results that are kept; the one that was not used for longest goes first."""
MAX_WEIGHT = 16 * 1024 * 1024
"""What they may hold together (`weight_of`)."""
LEAST_WEIGHT = 1_000
"""What each result counts at least."""
MAX_REDACTED = 8
"""Forms of one result, each without the secrets of other sessions."""
MAX_LISTS = 8 * 1024 * 1024
"""Bytes of the lists of tools that are kept."""

Owner = tuple[OrgId, str]
"""The organization, and the capability's id."""


class Outcome(Struct, frozen=True):
    """The outcome of a discovery: its result, whose size is limited, or why it failed.

    Attributes:
        fatal: whether the turn must not go on without it, whatever its capability says.
        given: what the capability returned; it is not checked again if it is the same object the next time.
    """

    found: Discovered | None
    reason: str = ""
    fatal: bool = False
    given: Discovered | None = None


class _Entry:
    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.lock = asyncio.Lock()
        self.outcome: Outcome | None = None
        self.since: Micros = 0
        self.weight = LEAST_WEIGHT
        self.redacted: OrderedDict[bytes, Discovered] = OrderedDict()

    def current(self, age: float, now: Micros) -> Outcome | None:
        """The outcome if it can still be used."""
        if self.outcome is None:
            return None
        seconds = FAILURE_AGE if self.outcome.found is None else max(age, DISCOVERY_AGE)
        # A clock that has gone back does not tell how old it is.
        return self.outcome if 0 <= now - self.since < seconds * 1_000_000 else None

    def keep(self, outcome: Outcome, now: Micros) -> None:
        """Replace the outcome. A result that equals the one before leaves what was made of that as it is."""
        before = self.outcome
        if before is None or before.found is None or before.found != outcome.found:
            self.redacted.clear()
            self.outcome = outcome
        else:
            self.outcome = replace(before, given=outcome.given)
        self.since = now


class SharedDiscoveries:
    """The results, by whatever they depend on."""

    def __init__(self) -> None:
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._names: OrderedDict[tuple[str, ...], tuple[object, bytes]] = OrderedDict()
        self._weight = 0
        self._lists: OrderedDict[tuple[int, ...], tuple[tuple[Discovered, ...], ToolList]] = OrderedDict()
        self._list_bytes = 0

    def name_of(self, parts: tuple[str, ...], config: object) -> bytes:
        """Return what a result depends on, as a digest: made once for the same object `config`.

        Raises:
            TypeError, ValueError: the configuration cannot be encoded.
        """
        known = self._names.get(parts)
        if known is not None and known[0] is config:
            return known[1]
        name = hashlib.sha256(msgspec.json.encode((*parts, config), order="sorted")).digest()
        self._names[parts] = (config, name)
        if len(self._names) > MAX_SHARED:
            self._names.popitem(last=False)
        return name

    async def outcome(
        self,
        name: bytes,
        owner: Owner,
        age: float,
        now: Callable[[], Micros],
        attempt: Callable[[Outcome | None], Awaitable[Outcome]],
    ) -> Outcome:
        """The outcome of a discovery. Those who need the same one at the same time wait for one attempt.

        Args:
            name: whatever the result depends on.
            owner: whose result it is, for `forget`.
            age: seconds for which a result can be used.
            attempt: makes it; it receives the outcome before.
        """
        entry = self._entries.get(name)
        if entry is None:
            entry = self._entries[name] = _Entry(owner)
            self._weight += entry.weight
        self._entries.move_to_end(name)
        async with entry.lock:
            outcome = entry.current(age, now())
            if outcome is None:
                entry.keep(await attempt(entry.outcome), now())
                outcome = entry.outcome or Outcome(None)
                self._weigh(name, entry)
        return outcome

    def ready(
        self,
        name: bytes,
        age: float,
        now: Micros,
        secrets: bytes,
        redact: Callable[[Discovered], Discovered],
    ) -> Discovered | None:
        """The result that can still be used, as `redacted`, without waiting for it; None if there is none."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        known = entry.redacted.get(secrets)
        if known is not None and 0 <= now - entry.since < DISCOVERY_AGE * 1_000_000:
            self._entries.move_to_end(name)
            return known  # the usual case, once for each server of a turn
        outcome = entry.current(age, now)
        if outcome is None or outcome.found is None:
            return None
        self._entries.move_to_end(name)
        return self.redacted(name, outcome.found, secrets, redact)

    def redacted(
        self, name: bytes, found: Discovered, secrets: bytes, redact: Callable[[Discovered], Discovered]
    ) -> Discovered:
        """A result without the secrets of a session: the same object each time, for the same secrets.

        Args:
            secrets: the fingerprint of the secrets.
            redact: makes it.
        """
        entry = self._entries.get(name)
        if entry is None or entry.outcome is None or entry.outcome.found is not found:
            return redact(found)
        known = entry.redacted.get(secrets)
        if known is None:
            known = entry.redacted[secrets] = redact(found)
            if len(entry.redacted) > MAX_REDACTED:
                entry.redacted.popitem(last=False)
        return known

    async def list_of(self, found: Mapping[str, Discovered]) -> ToolList:
        """The list of these results, by capability id: made once for the same objects."""
        results = tuple(found.values())
        # Ids are unique while the objects live, and an entry keeps its own alive. The capability's id is in
        # the list, but no two capabilities share a result.
        key = tuple(map(id, results))
        known = self._lists.get(key)
        if known is not None:
            self._lists.move_to_end(key)
            return known[1]
        made = await list_of(found)
        if key not in self._lists:
            self._lists[key] = (results, made)
            self._list_bytes += len(made.content.data)
        while self._list_bytes > MAX_LISTS and self._lists:
            _, (_, dropped) = self._lists.popitem(last=False)
            self._list_bytes -= len(dropped.content.data)
        return made

    def forget(self, org_id: OrgId, capability_id: str) -> None:
        """Drop the results of a capability in an organization: what they depend on has changed."""
        owner = (org_id, capability_id)
        for name in [name for name, entry in self._entries.items() if entry.owner == owner]:
            self._drop(name)

    def _weigh(self, name: bytes, entry: _Entry) -> None:
        """Count what an entry holds, and drop the oldest ones above the bound."""
        if self._entries.get(name) is not entry:
            return  # dropped while it was discovered
        found = entry.outcome.found if entry.outcome else None
        weight = LEAST_WEIGHT
        if found is not None:
            weight += len(found.prompt) + weight_of(facts_of(found.tools), MAX_WEIGHT)
        self._weight += weight - entry.weight
        entry.weight = weight
        while len(self._entries) > 1 and (self._weight > MAX_WEIGHT or len(self._entries) > MAX_SHARED):
            self._drop(next(iter(self._entries)))

    def _drop(self, name: bytes) -> None:
        self._weight -= self._entries.pop(name).weight
