"""The rules for tools that clients define."""

from __future__ import annotations

import asyncio

import msgspec

from perdure.domain.errors import InvalidInput
from perdure.domain.tool_schemas import SchemaBudget, check_schema
from perdure.domain.tools import APPROVE, ToolDefinition

LARGE = 32 * 1024
"""Bytes of tools above which checking them takes more than about 10 ms, so that a thread does it."""


def are_large(tools: tuple[ToolDefinition, ...]) -> bool:
    """Whether a thread should check these tools."""
    return bool(tools) and len(msgspec.json.encode(tools)) > LARGE


async def check_tools(tools: tuple[ToolDefinition, ...]) -> None:
    """Check that tools have distinct, unreserved names, and schemas that model vendors accept.

    Raises:
        InvalidInput: names the tool and what is wrong with it.
    """
    if are_large(tools):
        await asyncio.to_thread(_check_all, tools)
    else:
        _check_all(tools)


def _check_all(tools: tuple[ToolDefinition, ...]) -> None:
    checks = ToolChecks()
    for index, tool in enumerate(tools):
        checks.check(tool, f"tools[{index}]")


class ToolChecks:
    """Checks tools one after the other. A tool that was refused does not count for the later ones."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._budget = SchemaBudget()

    def check(self, tool: ToolDefinition, where: str) -> None:
        """Check one tool. `where` is its path, for errors. Raises InvalidInput."""
        if tool.name in self._names:
            raise InvalidInput(
                f"`{where}.name`: two tools are named {tool.name!r}", code="duplicate_tool", field=where
            )
        if tool.name == APPROVE:
            raise InvalidInput(
                f"`{where}.name`: {APPROVE!r} is reserved; choose another name",
                code="reserved_tool_name",
                field=where,
            )
        check_schema(tool.parameters, f"{where}.parameters", self._budget)
        self._names.add(tool.name)
