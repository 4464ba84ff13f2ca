"""The features of sessions: what clients can rely on in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from perdure.capabilities.layers import KnownLayers, Layer, LayerRow, rows_below, session_layer
from perdure.capabilities.registry import Registry
from perdure.capabilities.resolve import features_of
from perdure.domain.errors import Damaged, NotFound
from perdure.store.agents import AgentRow
from perdure.store.database import Tx
from perdure.store.sessions import SessionRow

CAPACITY = 256
MAX_CONFIG = 16 * 1024
"""Characters of the configurations whose features are kept."""

Features = tuple[str, ...]
"""The names of features, sorted."""

Key = tuple[tuple[bool, bool, str], ...]
"""Of each row: whether it is an agent, whether only its policies count, and its configuration."""


class FeatureCache:
    """The features that configurations of harnesses and agents declare, most recent last.

    They depend on nothing else, so that an entry is never stale.
    """

    def __init__(self) -> None:
        self._known: dict[Key, tuple[str, ...]] = {}

    def of_rows(self, registry: Registry, rows: Sequence[LayerRow]) -> tuple[str, ...]:
        """The features of the layers that these rows are."""
        key: Key = tuple(
            [(isinstance(each.row, AgentRow), each.policy_only, each.row.config) for each in rows]
        )
        known = self._known.get(key)
        if known is None:
            known = _declared(registry, _layers(rows))
            if sum(len(config) for _, _, config in key) <= MAX_CONFIG:
                if len(self._known) >= CAPACITY:
                    del self._known[next(iter(self._known))]
                self._known[key] = known
        return known


def layers_of(row: SessionRow) -> tuple[str | None, ...]:
    """What the layers below a session's own depend on."""
    return row.harness_id, row.agent_id, row.agent_version_id, row.handed_from


class SessionFeatures:
    """Computes the features of sessions, for one request: layers that sessions share are read only once."""

    def __init__(self, registry: Registry, cache: FeatureCache) -> None:
        self._registry = registry
        self._cache = cache
        self._shared: dict[tuple[str | None, ...], tuple[list[LayerRow], tuple[str, ...]]] = {}

    async def read(self, tx: Tx, rows: Iterable[SessionRow], known: KnownLayers | None = None) -> None:
        """Read the layers below these sessions' own, before `of` is asked about them.

        Args:
            known: what was read already, of a single session.
        """
        for row in rows:
            key = layers_of(row)
            if key in self._shared:
                continue
            try:
                below = await rows_below(tx, row, known)
                self._shared[key] = (below, self._cache.of_rows(self._registry, below))
            except (NotFound, Damaged):
                self._shared[key] = ([], ())  # a session stays readable after its harness or agent is deleted

    def of(self, row: SessionRow) -> tuple[str, ...]:
        """The features that the active capabilities declare, of a session whose layers are read."""
        below, features = self._shared[layers_of(row)]
        # Most sessions of a list have no capabilities of their own: no layer is made of them.
        config = row.config_struct()
        if not config.capabilities and not config.mcp_servers:
            return features
        return _declared(self._registry, [*_layers(below), session_layer(row)])


def _declared(registry: Registry, layers: Iterable[Layer]) -> tuple[str, ...]:
    return features_of(registry.resolve(layer.refs(registry) for layer in layers))


def _layers(rows: Sequence[LayerRow]) -> list[Layer]:
    return [each.layer() for each in rows]
