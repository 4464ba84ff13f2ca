"""Lists of discovered tools, as they are stored.

A turn that continues has the tools that its model was offered.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from perdure.capabilities.port import TOOL_TIMEOUT, Discovered, Tool, ToolContext, ToolOutcome
from perdure.capabilities.registry import Active
from perdure.domain.errors import InvalidInput, ToolError
from perdure.domain.files import LONG, Content, content_of
from perdure.domain.messages import JsonObject, storable
from perdure.domain.redaction import Redactor
from perdure.domain.tool_schemas import SchemaBudget, check_schema
from perdure.domain.tools import APPROVE, ToolHints

log = logging.getLogger("perdure.discovery")

MAX_TOOLS = 500
"""Tools of one capability's discovery that are used, in the order of their names."""
MAX_DESCRIPTION = 16_000
"""Characters of a discovered tool's description."""
MAX_LIST = 512 * 1024
"""Bytes of the descriptions and schemas of one capability's tools as JSON."""

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class StoredTool(Struct, frozen=True, omit_defaults=True):
    """All of a tool but its functions."""

    name: str
    description: str
    parameters: JsonObject
    hints: ToolHints = ToolHints()
    display_name: str | None = None
    timeout: float = TOOL_TIMEOUT
    spill: bool = True
    secret_arguments: tuple[str, ...] = ()
    queue: str | None = None
    writes: str | None = None
    approval: bool = False
    resumable: bool = False


class StoredDiscovery(Struct, frozen=True, omit_defaults=True):
    """The result of a capability's discovery."""

    prompt: str = ""
    tools: tuple[StoredTool, ...] = ()


class ToolList(Struct, frozen=True):
    """The tools that capabilities found for a model call, as JSON.

    Attributes:
        restored: whether it was stored for an earlier model call, instead of found now.
    """

    content: Content
    restored: bool = False

    @property
    def digest(self) -> str:
        """What the log says of it: its SHA-256."""
        return self.content.hash


_FORMAT = dict[str, StoredDiscovery]


async def list_of(found: Mapping[str, Discovered]) -> ToolList:
    """The list of these results, by capability id."""
    stored = {
        identifier: StoredDiscovery(result.prompt, tuple(map(_stored, result.tools)))
        for identifier, result in found.items()
    }
    data = msgspec.json.encode(stored, order="deterministic")
    return ToolList(await asyncio.to_thread(content_of, data) if len(data) > LONG else content_of(data))


def read_list(content: bytes) -> Mapping[str, StoredDiscovery]:
    """The results in a stored list, by capability id."""
    return msgspec.json.decode(content, type=_FORMAT)


def _stored(tool: Tool) -> StoredTool:
    return StoredTool(**{name: getattr(tool, name) for name in StoredTool.__struct_fields__})


def restored(active: Active, stored: StoredDiscovery, current: Sequence[Tool]) -> Discovered:
    """The result of a discovery as it was stored.

    Args:
        current: the tools that the capability finds now, for one that cannot restore them.
    """
    by_name = {tool.name: tool for tool in current}
    tools = (_restored(active, each, by_name.get(each.name)) for each in stored.tools)
    return Discovered(stored.prompt, tuple(tools))


def _restored(active: Active, stored: StoredTool, current: Tool | None) -> Tool:
    facts = msgspec.structs.asdict(stored)
    gone = Tool(run=partial(_gone, stored.name), **facts)
    restore = active.capability.restore
    if restore is None:
        return gone if current is None else replace(current, **facts)
    try:
        return replace(restore(active.config, gone), **facts)
    except Exception:
        log.exception("the capability %s cannot restore a tool", active.capability.id)
        return gone


async def _gone(name: str, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    raise ToolError(f"The tool {name!r} is no longer available. Continue without it.")


def usable(tools: Iterable[Tool]) -> tuple[tuple[Tool, ...], int]:
    """The tools that a model can be offered, sorted by name, and how many are left out.

    Names and schemas that a vendor refuses would fail every model call. Several calls take a share of a
    second if the schemas are large.
    """
    kept: dict[str, Tool] = {}
    budget, room, left_out = SchemaBudget(), MAX_LIST, 0
    for tool in sorted(tools, key=lambda tool: str(tool.name)):
        size = _size_of(tool, budget) if len(kept) < MAX_TOOLS and tool.name not in kept else None
        if size is None or size > room:
            left_out += 1
            continue
        room -= size
        kept[tool.name] = tool
    return tuple(kept.values()), left_out


def _size_of(tool: Tool, budget: SchemaBudget) -> int | None:
    """The bytes of a tool as JSON; None if no model can be offered it."""
    if not _NAME.fullmatch(str(tool.name)) or tool.name == APPROVE:
        return None
    try:
        if len(tool.description) > MAX_DESCRIPTION:
            return None
        check_schema(tool.parameters, tool.name, budget)
        return len(msgspec.json.encode(_stored(tool)))
    except (InvalidInput, AttributeError, TypeError, ValueError, RecursionError):
        return None


def redacted(tools: tuple[Tool, ...], redactor: Redactor) -> tuple[Tool, ...]:
    """The tools without secrets in what models read of them."""
    if not redactor:
        return tools
    return tuple(
        replace(
            tool,
            description=redactor.text(tool.description),
            parameters=redactor.value(tool.parameters),
            display_name=redactor.value(tool.display_name),
        )
        for tool in tools
    )


def storable_tools(tools: Iterable[Tool]) -> tuple[Tool, ...]:
    """The tools with descriptions that the database can store and every vendor accepts."""
    return tuple(replace(tool, description=storable(tool.description)) for tool in tools)
