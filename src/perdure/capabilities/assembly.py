"""Layers into one: the capabilities that are active, the tools they come to, and the system prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal
from xml.sax.saxutils import quoteattr

import msgspec
from msgspec import Struct

from perdure.capabilities.port import Behaviour, Tool
from perdure.capabilities.registry import Active, Registry
from perdure.domain.errors import InvalidInput
from perdure.domain.network import NetworkRules, combine
from perdure.domain.sessions import NetworkAccess
from perdure.domain.tools import BuiltinTool, CapabilityRef, ClientSideTool, ToolDefinition
from perdure.llm.driver import ToolSpec
from perdure.store.agents import AgentRow
from perdure.store.harnesses import HarnessRow


class Layer(Struct, frozen=True):
    """What one layer brings to the prompt and the tools."""

    kind: Literal["harness", "agent", "session"]
    name: str | None
    system_prompt: str | None
    capabilities: tuple[CapabilityRef, ...] = ()
    tools: tuple[ToolDefinition, ...] = ()
    network: NetworkAccess | None = None


def harness_layer(row: HarnessRow) -> Layer:
    """What a harness brings; its parents are layers of their own."""
    config = row.config_struct()
    return Layer("harness", row.name, row.system_prompt, config.capabilities, network=config.network_access)


def agent_layer(row: AgentRow) -> Layer:
    """What an agent brings."""
    config = row.config_struct()
    return Layer(
        "agent", row.name, row.system_prompt, config.capabilities, config.tools, config.network_access
    )


class BoundTool(Struct, frozen=True):
    """A tool that runs here, and the capability that brought it."""

    tool: Tool
    capability_id: str
    capability_name: str
    gated: bool = False
    rejected: bool = False


SourceKind = Literal["capability", "harness", "agent", "session"]


class Section(Struct, frozen=True):
    """A piece of the system prompt.

    Attributes:
        kind, source: who says it: a capability by its id, a layer by its name.
        label: the same for people.
        text: as it stands in the prompt; empty for what the capability has to be asked for (`reads`).
    """

    kind: SourceKind
    source: str
    label: str
    text: str
    reads: bool = False


NOT_READ = "(read from the session before each model call)"
"""What stands in a preview for what cannot be known before there is a session."""

_TAGS = re.compile(r"<(?=[\s/]{0,20}(?:capability|harness|agent|session)\b)", re.IGNORECASE)


def system_prompt(sections: Sequence[Section], read: Mapping[str, str]) -> str:
    """The sections as one text.

    Args:
        read: what the capabilities said that were asked. It comes from files and the like, so nothing in it
            can end its section or look like the beginning of another one.
    """
    return "\n\n".join(text for section in sections if (text := section_text(section, read)))


def section_text(section: Section, read: Mapping[str, str]) -> str:
    """One section as it stands in the prompt; empty when a capability that was asked had nothing to say."""
    if not section.reads:
        return section.text
    said = read.get(section.source, "").strip()
    return _section("capability", _TAGS.sub("&lt;", said), id=section.source) if said else ""


class Merged(Struct, frozen=True):
    """What layers come to.

    Attributes:
        sections: the system prompt.
        active: the capabilities in force, each after those that it depends on.
        bound, client: the tools by name: those that run here, and those that callers run.
        network: the hosts that tools may reach.
    """

    sections: tuple[Section, ...]
    active: tuple[Active, ...]
    bound: dict[str, BoundTool]
    client: dict[str, ClientSideTool]
    behaviour: Behaviour
    network: NetworkRules = NetworkRules()

    @property
    def system(self) -> str:
        """The system prompt as far as it is the same for every session."""
        return system_prompt(self.sections, {})

    def preview(self) -> str:
        """The system prompt, with a word where something of the session's would stand."""
        return system_prompt(self.sections, {each.source: NOT_READ for each in self.sections if each.reads})

    def specs(self) -> tuple[ToolSpec, ...]:
        """The tools as the model gets them."""
        here = [
            ToolSpec(each.tool.name, each.tool.description, each.tool.parameters)
            for each in self.bound.values()
        ]
        return (
            *here,
            *(ToolSpec(tool.name, tool.description, tool.parameters) for tool in self.client.values()),
        )

    def features(self) -> tuple[str, ...]:
        """The union of what the active capabilities declare, sorted."""
        return tuple(sorted({feature for each in self.active for feature in each.capability.features}))


def merge_layers(
    layers: Sequence[Layer], registry: Registry, standing: dict[str, str] | None = None
) -> Merged:
    """Merge layers, lowest first.

    Args:
        standing: decisions that hold for every call of a tool, by the tool's name.

    Raises:
        InvalidInput: two tools have the same name.
    """
    active = registry.resolve(layer.capabilities for layer in layers)
    bound: dict[str, BoundTool] = {}
    sections: list[Section] = []
    for each in active:
        capability = each.capability
        for tool in capability.tools(each.config):
            bound[tool.name] = BoundTool(tool, capability.id, capability.name)
        prompt = capability.prompt(each.config)
        if prompt:
            text = _section("capability", prompt, id=capability.id)
            sections.append(Section("capability", capability.id, capability.name, text))
        if capability.read_prompt is not None:
            sections.append(Section("capability", capability.id, capability.name, "", reads=True))
    client = _add_definitions([tool for layer in layers for tool in layer.tools], bound, registry)
    decided = {name: _decided(each, active, (standing or {}).get(name)) for name, each in bound.items()}
    for layer in layers:
        if layer.system_prompt:
            named = {} if layer.name is None else {"name": layer.name}
            text = _section(layer.kind, layer.system_prompt, **named)
            label = f"{layer.kind.capitalize()} {layer.name}" if layer.name else layer.kind.capitalize()
            sections.append(Section(layer.kind, layer.name or layer.kind, label, text))
    behaviour = Behaviour()
    for each in active:
        behaviour = each.capability.behave(each.config, behaviour)
    return Merged(
        tuple(sections), active, decided, client, behaviour, combine(layer.network for layer in layers)
    )


def _decided(bound: BoundTool, active: tuple[Active, ...], standing: str | None) -> BoundTool:
    """The tool with what is known of its gate: a standing decision, or whether somebody has to be asked."""
    if standing is not None:
        return msgspec.structs.replace(bound, gated=False, rejected=standing == "reject_always")
    if any(each.capability.gate(each.config, bound.tool) for each in active):
        return msgspec.structs.replace(bound, gated=True)
    return bound


def _add_definitions(
    definitions: Sequence[ToolDefinition], bound: dict[str, BoundTool], registry: Registry
) -> dict[str, ClientSideTool]:
    client: dict[str, ClientSideTool] = {}
    defined: set[str] = set()
    for definition in definitions:
        name = definition.name
        if name in defined or (isinstance(definition, ClientSideTool) and name in bound):
            raise InvalidInput(f"two tools are named {name!r}", code="duplicate_tool", field="tools")
        defined.add(name)
        if isinstance(definition, BuiltinTool):
            found = registry.tool(name)
            if found is not None:
                capability, tool = found
                bound[name] = BoundTool(
                    tool, capability.id, capability.name, definition.policy == "requires_approval"
                )
        else:
            client[name] = definition
    return client


def _section(tag: str, text: str, **attributes: str) -> str:
    named = "".join(f" {key}={quoteattr(value)}" for key, value in attributes.items())
    return f"<{tag}{named}>\n{text.strip()}\n</{tag}>"
