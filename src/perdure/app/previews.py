"""What layers would come to, before they are stored, and what is worth a second look in them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from perdure.app.services import App
from perdure.app.sessions import check_tools, find_harness
from perdure.capabilities.assembly import Layer, Merged, harness_layer, merge_layers
from perdure.domain.accounts import Caller
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import check_id
from perdure.domain.messages import JsonObject
from perdure.domain.previews import AgentPreview, Analysis, Finding, FindingLocation, HarnessPreview, PreviewAgent, PreviewHarness
from perdure.domain.tools import BuiltinTool, CapabilityRef, ClientSideTool, ToolDefinition
from perdure.store.database import Tx
from perdure.store.harnesses import HarnessRow, harness_chain

SHORT_PROMPT = 40
"""Characters below which a prompt hardly says what the agent is for."""
LONG_PROMPT = 32_000
"""Characters of the assembled prompt, about 8,000 tokens, from which each call's price is worth a look."""
MANY_TOOLS = 40
"""Tools beyond which models choose badly, and every call pays for their descriptions."""

_PLACEHOLDER = re.compile(r"\{\{[^{}\n]{0,60}\}\}|\[(?:TODO|INSERT|YOUR)[^\]\n]{0,60}\]|\bTODO\b|\bFIXME\b")
_SECRET = re.compile(
    r"\b(?:sk-[A-Za-z0-9_-]{20,}|pdr_pat_[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|AKIA[0-9A-Z]{16}|xox[abp]-[A-Za-z0-9-]{20,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
"""Keys as well-known vendors form them."""


async def preview_agent(app: App, caller: Caller, body: PreviewAgent) -> AgentPreview:
    """What the model would get of this agent: the prompt and the tools; and the findings."""
    merged, findings = await _look_at(app, caller, body)
    return AgentPreview(merged.system, _tools(merged), findings)


async def analyze_agent(app: App, caller: Caller, body: PreviewAgent) -> Analysis:
    """What is worth a second look in this agent. Fixed rules; no model is asked."""
    return Analysis((await _look_at(app, caller, body))[1])


async def preview_harness(app: App, caller: Caller, body: PreviewHarness) -> HarnessPreview:
    """What the model would get of this harness and its parents."""
    app.registry.check(body.capabilities)
    chain: list[HarnessRow] = []
    parent_id = body.parent_harness_id
    if parent_id is not None:
        check_id(parent_id, "harness", "parent_harness_id")
        chain = await app.database.read(lambda tx: harness_chain(tx, caller.organization_id, parent_id))
    own = Layer("harness", None, body.system_prompt, body.capabilities)
    merged = merge_layers([*map(harness_layer, chain), own], app.registry)
    return HarnessPreview(merged.system, _tools(merged))


async def _look_at(app: App, caller: Caller, body: PreviewAgent) -> tuple[Merged, tuple[Finding, ...]]:
    if body.harness_id is not None and body.harness_name is not None:
        raise InvalidInput("give `harness_id` or `harness_name`, not both", field="harness_id")

    async def work(tx: Tx) -> list[HarnessRow]:
        if body.harness_id is None and body.harness_name is None:
            return []
        harness = await find_harness(tx, caller.organization_id, body.harness_id, body.harness_name)
        return await harness_chain(tx, caller.organization_id, harness.id)

    layers = [harness_layer(row) for row in await app.database.read(work)]
    findings: list[Finding] = []
    capabilities = tuple(_usable_capabilities(app, body.capabilities, findings))
    below = merge_layers([*layers, Layer("agent", None, None, capabilities)], app.registry)
    tools = _usable_tools(app, below, body.tools, findings)
    merged = merge_layers([*layers, Layer("agent", None, body.system_prompt, capabilities, tuple(tools))], app.registry)
    findings += [*_about_prompt(body.system_prompt), *_about_tools(body.tools), *_about_size(merged)]
    return merged, tuple(findings)


def _usable_capabilities(app: App, refs: tuple[CapabilityRef, ...], findings: list[Finding]) -> Iterator[CapabilityRef]:
    """Those that could be stored; each of the others is a finding."""
    for index, ref in enumerate(refs):
        try:
            app.registry.check((ref,))
        except InvalidInput as error:
            message = error.message.replace("capabilities[0]", f"capabilities[{index}]")
            findings.append(_refused(error.code, message, f"capabilities[{index}]"))
        else:
            yield ref


def _usable_tools(
    app: App, below: Merged, tools: tuple[ToolDefinition, ...], findings: list[Finding]
) -> list[ToolDefinition]:  # fmt: skip
    """Those that could be stored; each of the others is a finding, and so is a tool that nothing here runs."""
    usable: list[ToolDefinition] = []
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        try:
            check_tools((*usable, tool))
        except InvalidInput as error:
            findings.append(_refused(error.code, error.message.replace(f"tools[{len(usable)}]", where), where))
            continue
        if isinstance(tool, ClientSideTool) and tool.name in below.bound:
            message = f"`{where}.name`: a capability brings a tool named {tool.name!r} already"
            findings.append(_refused("duplicate_tool", message, where))
            continue
        usable.append(tool)
        if isinstance(tool, BuiltinTool) and app.registry.tool(tool.name) is None:
            message = f"`{where}`: no tool named {tool.name!r} runs on this server, so the model will not get it"
            findings.append(
                Finding("unknown_builtin_tool", "structure", "warning", message, fix="Make it a client-side tool.",
                        location=FindingLocation(f"{where}.name"))
            )  # fmt: skip
    return usable


def _refused(rule: str, message: str, field: str) -> Finding:
    return Finding(rule, "structure", "warning", message, location=FindingLocation(field))


def _about_prompt(prompt: str) -> Iterator[Finding]:
    field = "system_prompt"
    text = prompt.strip()
    if not text:
        yield Finding("prompt_empty", "completeness", "warning", "The agent has no prompt.", fix="Say what it is for.",
                      location=FindingLocation(field))  # fmt: skip
    elif len(text) < SHORT_PROMPT:
        yield Finding("prompt_short", "completeness", "suggestion", "The prompt hardly says what the agent is for.",
                      fix="Name its task, its limits and the form of its answers.", location=FindingLocation(field))  # fmt: skip
    for rule, category, pattern, message, fix in (
        ("secret_in_prompt", "safety", _SECRET, "This looks like a key. Prompts are shown and logged.",
         "Revoke it, and keep its successor in a secret store."),
        ("unfilled_placeholder", "completeness", _PLACEHOLDER, "This looks like something to be filled in.", "Fill it in, or remove it."),
    ):  # fmt: skip
        match = pattern.search(prompt)
        if match is not None:
            start, end = (len(prompt[:at].encode()) for at in match.span())
            yield Finding(rule, category, "warning", message, fix=fix, location=FindingLocation(field, start, end))  # type: ignore[arg-type]


def _about_tools(tools: tuple[ToolDefinition, ...]) -> Iterator[Finding]:
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        if not tool.description.strip():
            yield Finding("tool_undescribed", "effectiveness", "warning", f"The tool {tool.name!r} has no description.",
                          fix="Say what it does and when to use it.", location=FindingLocation(f"{where}.description"))  # fmt: skip
        bare = _undescribed(tool.parameters)
        if bare:
            yield Finding("parameters_undescribed", "effectiveness", "suggestion",
                          f"Parameters of {tool.name!r} have no description: {', '.join(bare[:5])}.",
                          fix="Say what to put there.", location=FindingLocation(f"{where}.parameters"))  # fmt: skip
        hints = tool.hints
        if isinstance(tool, BuiltinTool) and hints is not None and hints.destructive and tool.policy == "auto":
            yield Finding("destructive_without_approval", "safety", "suggestion",
                          f"The tool {tool.name!r} destroys, and nobody is asked.", fix="Set its policy to `requires_approval`.",
                          location=FindingLocation(f"{where}.policy"))  # fmt: skip


def _undescribed(parameters: JsonObject) -> list[str]:
    properties = parameters.get("properties")
    if not isinstance(properties, dict):
        return []
    return [name for name, each in properties.items() if isinstance(each, dict) and not each.get("description")]


def _about_size(merged: Merged) -> Iterator[Finding]:
    if len(merged.system) > LONG_PROMPT:
        message = f"The assembled prompt has {len(merged.system)} characters; each model call pays for it."
        yield Finding("prompt_long", "cost", "info", message)
    count = len(merged.bound) + len(merged.client)
    if count > MANY_TOOLS:
        yield Finding("many_tools", "cost", "info", f"The model gets {count} tools; it chooses better among fewer.")


def _tools(merged: Merged) -> tuple[JsonObject, ...]:
    here = [
        {"type": "builtin", "name": each.tool.name, "display_name": each.tool.display_name, "description": each.tool.description,
         "parameters": each.tool.parameters, "capability_id": each.capability_id,
         "policy": "requires_approval" if each.gated else "auto"}
        for each in merged.bound.values()
    ]  # fmt: skip
    there = [
        {"type": "client_side", "name": tool.name, "display_name": tool.display_name, "description": tool.description,
         "parameters": tool.parameters}
        for tool in merged.client.values()
    ]  # fmt: skip
    return tuple({key: value for key, value in each.items() if value is not None} for each in (*here, *there))
