"""A cache of resolved agents: most turns resolve the same layers as the turn before.

A resolved agent is a pure function of its layers and of what was discovered. Both are compared with what it
was resolved from, so that an entry can never be stale.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from perdure.capabilities.port import Discovered
from perdure.capabilities.registry import Active

if TYPE_CHECKING:
    from perdure.capabilities.layers import SessionLayers
    from perdure.capabilities.resolve import ResolvedAgent

CAPACITY = 32
MAX_TOKENS = 250_000
"""Tokens of the prompt and the tools of an agent that is kept, deferred ones included."""
MAX_TOTAL = 1_000_000
"""Tokens of all agents that are kept: a few megabytes of text."""

Key = tuple[str | None, str | None, str | None, str | None, int]


class Resolved(Struct, frozen=True):
    """An agent, and what it was resolved from; `discovered` and `agent` may be out of date."""

    layers: SessionLayers
    max_iterations: int
    active: tuple[Active, ...]
    discovered: Mapping[str, Discovered]
    agent: ResolvedAgent

    @property
    def tokens(self) -> int:
        """The estimated tokens of the agent's prompt and of all its tools."""
        deferred = self.agent.deferred
        return self.agent.fixed_tokens + (0 if deferred is None else deferred.weight)


class AgentCache:
    """The agents that a process resolved last: one for each harness, agent and settings of sessions."""

    def __init__(self) -> None:
        self._entries: OrderedDict[Key, Resolved] = OrderedDict()
        self._tokens = 0

    def get(self, loaded: SessionLayers, max_iterations: int) -> Resolved | None:
        """What was resolved from the same layers and decisions; None if they differ."""
        entry = self._entries.get(_key(loaded))
        if (
            entry is None
            or entry.max_iterations != max_iterations
            or entry.layers.layers != loaded.layers
            or entry.layers.standing != loaded.standing
        ):
            return None
        return entry

    def put(self, entry: Resolved) -> None:
        """Keep an agent, unless it is large; drops the oldest ones over the capacity."""
        key = _key(entry.layers)
        before = self._entries.pop(key, None)
        if before is not None:
            self._tokens -= before.tokens
        if entry.tokens > MAX_TOKENS or any(layer.initial_files for layer in entry.layers.layers):
            return
        self._entries[key] = entry
        self._tokens += entry.tokens
        while len(self._entries) > CAPACITY or self._tokens > MAX_TOTAL:
            _, oldest = self._entries.popitem(last=False)
            self._tokens -= oldest.tokens


def _key(loaded: SessionLayers) -> Key:
    row = loaded.session
    # Sessions with settings of their own must not take turns at one entry. Equal hashes of different settings
    # only cost a miss.
    # So for the values of variables, which messages may give.
    values = tuple(loaded.layers[-1].values.items())
    agents = row.agent_id, row.agent_version_id, row.handed_from
    return row.harness_id, *agents, hash((row.config, values))
