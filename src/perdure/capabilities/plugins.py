"""Loads capabilities from installed packages: once, at start.

Packages register them under the entry-point group `perdure.capabilities`.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points

from perdure.capabilities.functions import as_tool, capability_of
from perdure.capabilities.port import Capability
from perdure.domain.errors import Unavailable
from perdure.domain.json_schemas import compile_schema
from perdure.domain.schema_cost import Unbounded, cost_of
from perdure.domain.tool_functions import InvalidToolFunction, ToolFunction

GROUP = "perdure.capabilities"


def load_plugins(
    known: Iterable[Capability], points: Iterable[EntryPoint] | None = None
) -> tuple[Capability, ...]:
    """Load the capabilities of installed packages.

    Args:
        known: the built-in capabilities; no plug-in may use one of their ids or aliases.
        points: the entry points to load; by default, those of the group.

    Raises:
        Unavailable: a plug-in cannot be imported, is not a capability, or uses a name that is taken. The
            server must not start without capabilities that its sessions rely on.
    """
    taken = {name for capability in known for name in (capability.id, *capability.aliases)}
    loaded: list[Capability] = []
    for point in entry_points(group=GROUP) if points is None else points:
        for capability in _load(point):
            names = {capability.id, *capability.aliases}
            if names & taken:
                raise Unavailable(
                    f"the plug-in {point.name!r} defines a capability {capability.id!r}, but another"
                    f" capability already has one of its names: {', '.join(sorted(names & taken))}"
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
    capabilities = tuple(_capability(point, each) for each in values)
    for each in capabilities:
        _check_schema(point, each)
    return capabilities


def _capability(point: EntryPoint, value: object) -> Capability:
    if isinstance(value, ToolFunction):
        try:
            return capability_of(as_tool(value))
        except InvalidToolFunction as error:
            raise Unavailable(f"the plug-in {point.name!r} ({point.value}) has mistakes: {error}") from error
    if not isinstance(value, Capability):
        raise Unavailable(
            f"the plug-in {point.name!r} ({point.value}) is not a Capability, a function with `@tool`, or a "
            "tuple of them"
        )
    return value


def _check_schema(point: EntryPoint, capability: Capability) -> None:
    if capability.config_schema is None:
        return
    where = f"the plug-in {point.name!r}: the `config_schema` of the capability {capability.id!r}"
    try:
        compile_schema(capability.config_schema, linear=True)
        recursive = cost_of(capability.config_schema).recursive
    except ValueError as error:
        raise Unavailable(f"{where} is not a valid JSON Schema with plain patterns: {error}") from error
    except Unbounded as error:
        raise Unavailable(f"{where} is too costly to check: {error}") from error
    if recursive:
        raise Unavailable(f"{where} contains itself, so that its cost has no bound: unroll its references")
