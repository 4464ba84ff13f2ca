"""The server's capabilities, and the resolution of references to them."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from perdure.capabilities.defaults import no_hooks
from perdure.capabilities.port import Capability, Tool
from perdure.capabilities.shared_discoveries import SharedDiscoveries
from perdure.domain.decisions import ANYBODY, Approvers
from perdure.domain.errors import InvalidInput
from perdure.domain.guardrail_checks import AnyCheck
from perdure.domain.mcp_servers import MCP_REF
from perdure.domain.memories import MemoryMount
from perdure.domain.messages import JsonObject
from perdure.domain.policy_hooks import Hook
from perdure.domain.schema_cost import Cost, cost_of
from perdure.domain.skills import SKILL_REF, as_catalogue, check_skill_ref
from perdure.domain.tools import CapabilityRef

if TYPE_CHECKING:
    from jsonschema_rs import Validator


log = logging.getLogger("perdure.capabilities")

MAX_MADE = 1024
"""Capabilities of families that are kept."""
MAX_MISSING = 1000
"""Capabilities that this server does not have and that its log names."""


class Active(Struct, frozen=True):
    """An active capability.

    Attributes:
        config: what the configurations of all layers result in: the highest layer's, or the tightest one if
            the capability is a policy.
        policies: if the capability is a policy, or names files with instructions, the distinct configurations
            of all layers.
    """

    capability: Capability
    config: Any
    policies: tuple[Any, ...] = ()

    def gates(self, tool: Tool) -> bool:
        """Whether any layer's configuration requires approval for calls of a tool."""
        return any(self.capability.gate(config, tool) for config in self.policies)

    def watches_data(self) -> bool:
        """Whether any layer's configuration requires approval for calls that can send data out."""
        return any(map(self.capability.watches_data, self.policies))

    def approvers(self) -> Approvers:
        """Who may approve calls, after the configurations of all layers."""
        return reduce(Approvers.both, map(self.capability.approvers, self.policies), ANYBODY)

    def checks(self) -> tuple[AnyCheck, ...]:
        """The guardrails' checks of every layer, each once: a layer adds checks and takes none away."""
        found = (check for config in self.policies for check in self.capability.checks(config))
        return tuple(dict.fromkeys(found))

    def hooks(self) -> tuple[Hook, ...]:
        """The policy hooks of all layers' configurations, lowest layer first. Raises InvalidInput."""
        return tuple(hook for config in self.policies for hook in self.capability.hooks(config))

    def mounts(self) -> tuple[MemoryMount, ...]:
        """The memories that it mounts in the session's files."""
        return self.capability.mounts(self.config)

    def instructions(self) -> frozenset[str]:
        """The files with instructions in any layer's configuration, and in the default one.

        A layer that names others must not open those of another layer, which another session may read.
        """
        named = self.capability.instructions
        return frozenset(path for config in (None, *self.policies) for path in named(config))


class Family(Struct, frozen=True):
    """Capabilities that are made when they are named: `prefix` and what tells them apart.

    Attributes:
        make: makes one from what follows the prefix; None if that cannot name one.
        public: whether clients may name them. Others are named by the server itself.
    """

    prefix: str
    make: Callable[[str], Capability | None]
    public: bool = True


class Registry:
    """The capabilities of this server, by id and alias, and those of families.

    Attributes:
        discoveries: what they found lately.
    """

    def __init__(self, capabilities: Iterable[Capability], families: Iterable[Family] = ()) -> None:
        self._families = tuple(families)
        self._made: OrderedDict[str, Capability] = OrderedDict()
        self._by_id = {capability.id: capability for capability in capabilities}
        self._names: dict[str, Capability] = dict(self._by_id)
        for capability in self._by_id.values():
            self._names.update(dict.fromkeys(capability.aliases, capability))
        self.discoveries = SharedDiscoveries()
        self._missing: set[str] = set()
        self._validators: dict[str, tuple[Validator, Cost]] = {}

    def all(self) -> list[Capability]:
        """Every capability, sorted by id."""
        return [self._by_id[key] for key in sorted(self._by_id)]

    def get(self, ref: str) -> Capability | None:
        """The capability with this id or alias; None if it is unknown."""
        known = self._names.get(ref)
        return known if known is not None or ":" not in ref else self._member(ref)

    def _member(self, ref: str) -> Capability | None:
        """The capability of a family, made at its first use."""
        known = self._made.get(ref)
        if known is not None:
            self._made.move_to_end(ref)
            return known
        family = self._family(ref)
        made = None if family is None else family.make(ref.removeprefix(family.prefix))
        if made is not None:
            self._made[ref] = made
            if len(self._made) > MAX_MADE:
                self._made.popitem(last=False)
        return made

    def _family(self, ref: str) -> Family | None:
        return next((each for each in self._families if ref.startswith(each.prefix)), None)

    def _named(self, ref: str) -> Capability | None:
        """As `get`, for a reference of a client."""
        family = self._family(ref)
        return self.get(ref) if family is None or family.public else None

    def check(self, refs: Iterable[CapabilityRef], field: str = "capabilities") -> None:
        """Check that the capabilities are known and that their configurations are valid.

        Args:
            field: the name of the field that holds the references, for the error.

        Raises:
            InvalidInput: names the invalid reference, or the configurations are too large to be checked.
        """
        share = 0.0
        for index, ref in enumerate(refs):
            location = f"{field}[{index}]"
            capability = self._named(ref.ref)
            if capability is None and ref.ref.startswith(MCP_REF):
                continue  # only a transaction can look the server up: `check_mcp_refs` does
            if ref.ref.startswith(SKILL_REF):
                check_skill_ref(ref, location)
                continue  # `check_skill_refs` looks it up
            if capability is None:
                raise InvalidInput(
                    f"`{location}.ref`: unknown capability {ref.ref!r}; see GET /v1/capabilities",
                    code="unknown_capability",
                    field=location,
                )
            if ref.config is None and capability.hooks is not no_hooks:
                raise InvalidInput(
                    f"`{location}.config` is missing: a policy hook needs a `url` and a `secret`",
                    code="invalid_capability_config",
                    field=location,
                )
            if ref.config is None or capability.config_schema is None:
                continue
            if capability.read is not None:
                capability.read(ref.config, f"{location}.config")
                continue
            validator, cost = self._validator(capability.id, capability.config_schema)
            share += cost.share_of(ref.config)
            if share > 1:
                raise InvalidInput(
                    f"`{location}.config`: has too many values to be checked: send fewer",
                    code="invalid_capability_config",
                    field=location,
                )
            error = next(iter(validator.iter_errors(ref.config)), None)
            if error is not None:
                where = f"{location}.config" + "".join(map(_step, error.instance_path))
                # The library's message has the value.
                what = "must be a text" if "secret" in error.instance_path else error.message[:200]
                raise InvalidInput(f"`{where}`: {what}", code="invalid_capability_config", field=where[:200])

    def _validator(self, identifier: str, schema: JsonObject) -> tuple[Validator, Cost]:
        if identifier not in self._validators:
            import jsonschema_rs  # 4 MB that a server without configurations does not need

            self._validators[identifier] = jsonschema_rs.validator_for(schema, offline=True), cost_of(schema)
        return self._validators[identifier]

    def resolve(self, layers: Iterable[Iterable[CapabilityRef]]) -> tuple[Active, ...]:
        """Merge references by capability. By default, a later layer's configuration takes precedence.

        Unknown references (to a plug-in or a file with tools that was removed) are left out, and the log of
        the server names each once.

        Args:
            layers: the references of each layer, lowest layer first.

        Returns:
            The active capabilities, each after those that it depends on.
        """
        configs: dict[str, list[Any]] = {}
        for layer in layers:
            for ref in map(as_catalogue, layer):
                capability = self.get(ref.ref)
                if capability is None:
                    self._note_missing(ref.ref)
                    continue
                own = configs.setdefault(capability.id, [])
                # A policy without a configuration still asks for its default.
                if ref.config is not None or capability.is_policy:
                    own.append(ref.config)
        ordered: dict[str, Active] = {}
        for identifier in configs:
            self._add(identifier, configs, ordered)
        return tuple(ordered.values())

    def _note_missing(self, ref: str) -> None:
        if ref in self._missing or len(self._missing) == MAX_MISSING:
            return
        self._missing.add(ref)
        log.warning(
            "sessions enable the capability %s, which this server does not have: they go on without it. Was "
            "its file (--tools, PERDURE_TOOLS) or its plug-in left out?",
            ref,
        )

    def _add(
        self, identifier: str, configs: Mapping[str, list[Any]], ordered: dict[str, Active], depth: int = 0
    ) -> None:
        capability = self.get(identifier)
        if capability is None or capability.id in ordered or depth > 10:
            return
        for dependency in capability.dependencies:
            self._add(dependency, configs, ordered, depth + 1)
        own = configs.get(capability.id) or [None]
        distinct = [config for index, config in enumerate(own) if config not in own[:index]]
        policies = tuple(distinct) if capability.is_policy or capability.has_instructions else ()
        ordered[capability.id] = Active(capability, reduce(capability.merge, own), policies)

    def tool(self, name: str) -> tuple[Capability, Tool] | None:
        """The tool of this name and its capability, for tools that clients define as `builtin`."""
        for capability in self._by_id.values():
            for tool in capability.tools(None):
                if tool.name == name:
                    return capability, tool
        return None


def _step(step: str | int) -> str:
    """A step to a value of a configuration, as part of a field's path."""
    return f"[{step}]" if isinstance(step, int) else f".{step[:100]}"
