"""The client that the protocol's conformance suite starts: it does what a scenario asks for.

Usage: python mcp_conformance_client.py URL
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from perdure.domain.mcp import McpAnswers, McpInputRequest, McpInputRequired, McpTool
from perdure.domain.network import NetworkRules
from perdure.net.mcp.endpoints import McpEndpoint
from perdure.net.mcp.hosts import McpHosts
from tests.mcp_conformance_sign_in import SignIn, signed_in

SCENARIO = os.environ["MCP_CONFORMANCE_SCENARIO"]
CONTEXT = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT") or "{}")
CALLS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "tools_call": [("add_numbers", {"a": 5, "b": 3})],
    "elicitation-sep1034-client-defaults": [("test_client_elicitation_defaults", {})],
    "sse-retry": [("test_reconnection", {})],
    "sep-2322-client-request-state": [
        (f"test_mrtr_{name}", {}) for name in ("echo_state", "no_state", "unrelated", "no_result_type")
    ],
    "http-invalid-tool-headers": [("valid_tool", {"region": "x"})],
}


def accepted(asked: McpInputRequest) -> dict[str, Any]:
    """Accept a form, with its defaults."""
    plain = {"string": "x", "integer": 1, "number": 1.5, "boolean": True}
    fields = (asked.schema or {}).get("properties", {})
    content = {
        name: field.get("default", plain.get(field.get("type"), "x")) for name, field in fields.items()
    }
    return {"action": "accept", "content": content}


async def main() -> None:
    if SCENARIO.startswith("auth/"):
        await signed_in(SignIn(sys.argv[-1], SCENARIO, CONTEXT))
        return
    hosts = McpHosts()
    rules = NetworkRules(private=True)
    endpoint = McpEndpoint(sys.argv[-1], rules=rules, elicitation="url_and_form")
    offer = await hosts.offer(endpoint, timeout=20)
    tools = {tool.name: tool for tool in offer.tools}

    async def call(name: str, arguments: dict[str, Any], answers: McpAnswers | None = None) -> None:
        done = await hosts.call(
            endpoint, scope="one", tool=tools.get(name, McpTool(name)), arguments=arguments, meta={},
            extra_headers={}, timeout=20, idempotent=True, progress=print, answers=answers,
        )  # fmt: skip
        if isinstance(done, McpInputRequired):
            given = {asked.key: accepted(asked) for asked in done.requests}
            await call(name, arguments, McpAnswers(given, done.state))

    wanted = [(each["name"], each["arguments"]) for each in CONTEXT.get("toolCalls", [])]
    for name, arguments in wanted or CALLS.get(SCENARIO, []):
        await call(name, arguments)
    if SCENARIO == "http-standard-headers":
        await call(next(iter(tools)), {})
        for resource in await hosts.list_resources(endpoint, scope="one", timeout=10):
            await hosts.read_resource(endpoint, scope="one", uri=resource.uri, timeout=10)
        for prompt in await hosts.list_prompts(endpoint, scope="one", timeout=10):
            await hosts.get_prompt(endpoint, scope="one", name=prompt.name, arguments={}, timeout=10)
    await hosts.close()


asyncio.run(main())
