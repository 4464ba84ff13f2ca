"""Capabilities of other packages.

Found by the entry-point group `perdure.capabilities`, loaded once at start.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points

from perdure.capabilities.port import Capability
from perdure.domain.errors import Unavailable

GROUP = "perdure.capabilities"


def load_plugins(
    known: Iterable[Capability], found: Iterable[EntryPoint] | None = None
) -> tuple[Capability, ...]:
    """The capabilities that installed packages bring.

    Args:
        known: those that are there already; no plug-in may take one of their names.
        found: the entry points to load; those of the group if not given.

    Raises:
        Unavailable: a plug-in cannot be imported, is no capability, or takes a name twice. A server that
            lacks what its sessions were promised had better not start.
    """
    taken = {name for capability in known for name in (capability.id, *capability.aliases)}
    loaded: list[Capability] = []
    for point in entry_points(group=GROUP) if found is None else found:
        for capability in _load(point):
            names = {capability.id, *capability.aliases}
            if names & taken:
                raise Unavailable(
                    f"the plug-in {point.name!r} brings a capability {capability.id!r},"
                    " but that name is taken"
                )
            taken |= names
            loaded.append(capability)
    return tuple(loaded)


def _load(point: EntryPoint) -> tuple[Capability, ...]:
    try:
        value = point.load()
    except Exception as error:
        raise Unavailable(
            f"the plug-in {point.name!r} ({point.value}) cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    values = value if isinstance(value, tuple | list) else (value,)
    if not all(isinstance(each, Capability) for each in values):
        raise Unavailable(
            f"the plug-in {point.name!r} ({point.value}) is not a Capability, nor a tuple of them"
        )
    return tuple(values)
