"""Previews of agents and harnesses before they are stored, and findings about agents."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping

import msgspec

from perdure.app.context import App
from perdure.app.mcp_checks import check_inline
from perdure.app.ref_checks import check_configs, check_refs
from perdure.app.sessions import find_harness
from perdure.app.tool_definitions import ToolChecks, are_large
from perdure.capabilities.layers import Layer, harness_layer
from perdure.capabilities.resolve import ResolvedAgent, resolve
from perdure.capabilities.sections import preview_prompt
from perdure.domain.accounts import Caller
from perdure.domain.errors import InvalidInput
from perdure.domain.messages import JsonObject
from perdure.domain.previews import (
    AgentPreview,
    Analysis,
    Category,
    Finding,
    FindingLocation,
    HarnessPreview,
    PreviewAgent,
    PreviewHarness,
    Severity,
)
from perdure.domain.tools import BuiltinTool, CapabilityRef, ClientSideTool, ToolDefinition
from perdure.domain.variables import (
    Variable,
    check_prompt,
    defaults_of,
    names_in,
    texts_of,
    undeclared_in,
)
from perdure.store.database import Tx
from perdure.store.harnesses import HarnessRow, harness_chain

SHORT_PROMPT = 40
"""Characters below which a prompt hardly says what the agent is for."""
LONG_PROMPT = 32_000
"""Characters of the assembled prompt, about 8,000 tokens, above which the cost of each call is a finding."""
MANY_TOOLS = 40
"""Tools above which models choose badly, and each call pays for many descriptions."""

_PLACEHOLDER = re.compile(
    r"(?<!\\)\{\{[^{}\n]{0,60}\}\}|\[(?:TODO|INSERT|YOUR)[^\]\n]{0,60}\]|\bTODO\b|\bFIXME\b"
)
_SECRET = re.compile(
    r"\b(?:sk-[A-Za-z0-9_-]{20,}|pdr_pat_[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}"
    r"|AKIA[0-9A-Z]{16}|xox[abp]-[A-Za-z0-9-]{20,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
"""The formats of well-known vendors' keys."""


async def preview_agent(app: App, caller: Caller, body: PreviewAgent) -> AgentPreview:
    """Return the prompt and the tools that the model would get, and the findings about the agent."""
    agent, findings = await _resolve_and_check(app, caller, body)
    return AgentPreview(preview_prompt(agent.sections), _tools(agent), findings)


async def analyze_agent(app: App, caller: Caller, body: PreviewAgent) -> Analysis:
    """Return the findings about an agent. They come from fixed rules, without a model."""
    return Analysis((await _resolve_and_check(app, caller, body))[1])


async def preview_harness(app: App, caller: Caller, body: PreviewHarness) -> HarnessPreview:
    """Return the prompt and the tools that the model would get from a harness and its parents."""
    app.registry.check(body.capabilities)
    await check_inline(app, body.mcp_servers)
    await _check_refs(app, caller, body.capabilities)
    chain = await _chain(app, caller, body.parent_harness_id, None)
    own = Layer("harness", None, body.system_prompt, body.capabilities)
    agent = resolve([*map(harness_layer, chain), own], app.registry)
    return HarnessPreview(preview_prompt(agent.sections), _tools(agent))


async def _resolve_and_check(
    app: App, caller: Caller, body: PreviewAgent
) -> tuple[ResolvedAgent, tuple[Finding, ...]]:
    if body.harness_id is not None and body.harness_name is not None:
        raise InvalidInput("set either `harness_id` or `harness_name`, not both", field="harness_id")
    layers = [harness_layer(row) for row in await _chain(app, caller, body.harness_id, body.harness_name)]
    findings: list[Finding] = []
    capabilities = tuple(_usable_capabilities(app, body.capabilities, findings))
    below = resolve([*layers, Layer("agent", None, None, capabilities)], app.registry)
    if are_large(body.tools):
        tools = await asyncio.to_thread(_usable_tools, app, below, body.tools, findings)
    else:
        tools = _usable_tools(app, below, body.tools, findings)
    own = Layer(
        "agent",
        None,
        body.system_prompt,
        capabilities,
        tuple(tools),
        variables=defaults_of(body.variables),
        values=texts_of(body.values),
    )
    agent = resolve([*layers, own], app.registry)
    known = {each.message for each in findings}
    findings += [each for each in await _about_servers(app, caller, body) if each.message not in known]
    findings += [*_about_variables(body), *_about_prompt(body.system_prompt, body.variables)]
    findings += [*_about_tools(body.tools), *_about_size(agent)]
    return agent, tuple(findings)


async def _chain(app: App, caller: Caller, harness_id: str | None, name: str | None) -> list[HarnessRow]:
    """Return the harness and its parents, the topmost first; nothing without an id or a name."""
    if harness_id is None and name is None:
        return []

    async def work(tx: Tx) -> list[HarnessRow]:
        harness = await find_harness(tx, caller.organization_id, harness_id, name)
        return await harness_chain(tx, harness.org_id, harness.id)

    return await app.database.read(work)


def _usable_capabilities(
    app: App, refs: tuple[CapabilityRef, ...], findings: list[Finding]
) -> Iterator[CapabilityRef]:
    """Yield the capabilities that could be stored; add a finding for each of the others."""
    for index, ref in enumerate(refs):
        try:
            app.registry.check((ref,))
        except InvalidInput as error:
            message = error.message.replace("capabilities[0]", f"capabilities[{index}]")
            findings.append(_structural_finding(error.code, message, f"capabilities[{index}]"))
        else:
            yield ref


async def _about_servers(app: App, caller: Caller, body: PreviewAgent) -> list[Finding]:
    """Return a finding if the MCP servers, or the capabilities that name some, could not be stored."""
    try:
        await check_inline(app, body.mcp_servers)
        await _check_refs(app, caller, body.capabilities)
    except InvalidInput as error:
        return [_structural_finding(error.code, error.message, error.field or "mcpServers")]
    return []


async def _check_refs(app: App, caller: Caller, refs: tuple[CapabilityRef, ...]) -> None:
    await check_configs(app, refs)
    await app.database.read(lambda tx: check_refs(app, tx, caller.organization_id, refs))


def _usable_tools(
    app: App, below: ResolvedAgent, tools: tuple[ToolDefinition, ...], findings: list[Finding]
) -> list[ToolDefinition]:
    """Return the tools that could be stored.

    Adds a finding for each of the others, and for a built-in tool that this server does not have.
    """
    usable: list[ToolDefinition] = []
    checks = ToolChecks()
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        try:
            checks.check(tool, where)
        except InvalidInput as error:
            findings.append(_structural_finding(error.code, error.message, where))
            continue
        if isinstance(tool, ClientSideTool) and tool.name in below.bound:
            message = f"`{where}.name`: a capability already has a tool named {tool.name!r}"
            findings.append(_structural_finding("duplicate_tool", message, where))
            continue
        usable.append(tool)
        if isinstance(tool, BuiltinTool) and app.registry.tool(tool.name) is None:
            message = f"`{where}`: this server has no tool named {tool.name!r}, so the model will not get it"
            fix = "Make it a client-side tool."
            findings.append(
                _finding("unknown_builtin_tool", "effectiveness", "warning", message, f"{where}.name", fix)
            )
    return usable


def _finding(
    rule: str,
    category: Category,
    severity: Severity,
    message: str,
    field: str | None = None,
    fix: str | None = None,
) -> Finding:
    return Finding(
        rule, category, severity, message, "builtin", fix, None if field is None else FindingLocation(field)
    )


def _structural_finding(rule: str, message: str, field: str) -> Finding:
    return _finding(rule, "structure", "warning", message, field)


def _about_variables(body: PreviewAgent) -> Iterator[Finding]:
    """Yield findings about variables that could not be stored, and about those that nothing uses."""
    try:
        check_prompt(body.system_prompt, body.variables)
    except InvalidInput as error:
        yield _structural_finding(error.code, error.message, "system_prompt")
    used = frozenset(names_in(body.system_prompt))
    for name in body.variables:
        if name not in used:
            message = f"The prompt does not contain the variable `{name}`."
            fix = f"Write `{{{{{name}}}}}` where its value belongs, or remove it."
            field = f"variables.{name}"
            yield _finding("unused_variable", "effectiveness", "suggestion", message, field, fix)


def _about_prompt(prompt: str, variables: Mapping[str, Variable]) -> Iterator[Finding]:
    field = "system_prompt"
    text = prompt.strip()
    if not text:
        yield _finding(
            "prompt_empty",
            "completeness",
            "warning",
            "The agent has no prompt.",
            field,
            "Say what it is for.",
        )
    elif len(text) < SHORT_PROMPT:
        fix = "Name its task, its limits and the form of its answers."
        yield _finding(
            "prompt_short",
            "completeness",
            "suggestion",
            "The prompt hardly says what the agent is for.",
            field,
            fix,
        )
    secret = _SECRET.search(prompt)
    gap = next(
        (
            found
            for found in _PLACEHOLDER.finditer(prompt)
            if not names_in(found[0]) or undeclared_in(found[0], variables)
        ),
        None,
    )
    if secret is not None:
        message = "The prompt contains what looks like an API key. Prompts are displayed and logged."
        fix = "Revoke the key, and keep its replacement in a secret store."
        yield _with_location(
            _finding("secret_in_prompt", "safety", "warning", message, field, fix), prompt, secret
        )
    if gap is not None:
        message = "The prompt contains what looks like an unfilled placeholder."
        yield _with_location(
            _finding(
                "unfilled_placeholder", "completeness", "warning", message, field, "Fill it in, or remove it."
            ),
            prompt,
            gap,
        )


def _with_location(finding: Finding, text: str, match: re.Match[str]) -> Finding:
    start, end = (len(text[:index].encode()) for index in match.span())
    return msgspec.structs.replace(finding, location=FindingLocation("system_prompt", start, end))


def _about_tools(tools: tuple[ToolDefinition, ...]) -> Iterator[Finding]:
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        if not tool.description.strip():
            message = f"The tool {tool.name!r} has no description."
            fix = "Say what it does and when to use it."
            yield _finding(
                "tool_undescribed", "effectiveness", "warning", message, f"{where}.description", fix
            )
        bare = _undescribed(tool.parameters)
        if bare:
            message = f"Parameters of {tool.name!r} have no description: {', '.join(bare[:5])}."
            fix = "Describe the value that each expects."
            yield _finding(
                "parameters_undescribed", "effectiveness", "suggestion", message, f"{where}.parameters", fix
            )
        hints = tool.hints
        if (
            isinstance(tool, BuiltinTool)
            and hints is not None
            and hints.destructive
            and tool.policy == "auto"
        ):
            message = f"The tool {tool.name!r} is destructive, and runs without approval."
            fix = "Set its policy to `requires_approval`."
            yield _finding(
                "destructive_without_approval", "safety", "suggestion", message, f"{where}.policy", fix
            )


def _undescribed(parameters: JsonObject) -> list[str]:
    properties = parameters.get("properties")
    if not isinstance(properties, dict):
        return []
    return [
        name for name, each in properties.items() if isinstance(each, dict) and not each.get("description")
    ]


def _about_size(agent: ResolvedAgent) -> Iterator[Finding]:
    if len(agent.system) > LONG_PROMPT:
        message = f"The assembled prompt has {len(agent.system)} characters, which each model call pays for."
        yield _finding("prompt_long", "cost", "info", message)
    count = len(agent.bound) + len(agent.client)
    if count > MANY_TOOLS:
        yield _finding(
            "many_tools", "cost", "info", f"The model gets {count} tools, but chooses better from fewer."
        )


def _tools(agent: ResolvedAgent) -> tuple[JsonObject, ...]:
    server_side = [
        {
            "type": "builtin",
            "name": each.tool.name,
            "display_name": each.tool.display_name,
            "description": each.tool.description,
            "parameters": each.tool.parameters,
            "capability_id": each.capability_id,
            "policy": "requires_approval" if each.gated else "auto",
        }
        for each in agent.bound.values()
    ]
    client_side = [
        {
            "type": "client_side",
            "name": tool.name,
            "display_name": tool.display_name,
            "description": tool.description,
            "parameters": tool.parameters,
        }
        for tool in agent.client.values()
    ]
    return tuple(
        {key: value for key, value in each.items() if value is not None}
        for each in (*server_side, *client_side)
    )
