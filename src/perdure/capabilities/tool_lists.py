"""Lists of discovered tools, as they are stored.

A turn that continues has the tools that its model was offered.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from msgspec.structs import asdict, replace

from perdure.capabilities.port import TOOL_TIMEOUT, Discovered, Tool, ToolContext, ToolOutcome
from perdure.domain.data_flow import Flow
from perdure.domain.errors import PerdureError, ToolError
from perdure.domain.files import LONG, Content, content_of
from perdure.domain.messages import JsonObject, storable
from perdure.domain.redaction import Redactor
from perdure.domain.tool_schemas import SchemaBudget, check_schema
from perdure.domain.tools import APPROVE, ToolHints
from perdure.domain.weights import weight_of

if TYPE_CHECKING:
    from perdure.capabilities.registry import Active  # which has discoveries, which have lists

log = logging.getLogger("perdure.discovery")

MAX_TOOLS = 500
"""Tools of one capability's discovery that are used, in the order of their names."""
MAX_RETURNED = 10 * MAX_TOOLS
"""Tools above which the discovery fails."""
MAX_DESCRIPTION = 16_000
"""Characters of a discovered tool's description."""
MAX_LABEL = 200
"""Characters of its display name."""
MAX_LIST = 512 * 1024
"""Bytes of the descriptions and schemas of one capability's tools as JSON."""
MAX_WEIGHT = 4 * MAX_LIST
"""What the tools of one discovery may hold (`weight_of`), those that cannot be used included. Above it, the
discovery fails before anything walks through them."""

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
    origin: JsonObject | None = None
    definition: str | None = None
    changed: bool = False
    deferred: bool = False
    background: bool = False
    flow: Flow | None = None
    reads_files: bool = False
    persistent: bool = False


class StoredDiscovery(Struct, frozen=True, omit_defaults=True):
    """The result of a capability's discovery."""

    prompt: str = ""
    tools: tuple[StoredTool, ...] = ()
    name: str | None = None
    fault: str = ""


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


async def list_of(found: Mapping[str, Discovered]) -> ToolList:
    """The list of these results, by capability id."""
    stored = {identifier: _stored_result(result) for identifier, result in found.items()}
    data = msgspec.json.encode(stored, order="deterministic")
    return ToolList(await asyncio.to_thread(content_of, data) if len(data) > LONG else content_of(data))


def _stored_result(found: Discovered) -> StoredDiscovery:
    return StoredDiscovery(found.prompt, tuple(map(_stored, found.tools)), found.name, found.fault)


def read_list(content: bytes) -> Mapping[str, StoredDiscovery | None] | None:
    """The results in a stored list, by capability id; None for one that cannot be read, and for no list."""
    try:
        parts = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        log.warning("a stored list of tools cannot be read: %s", error)
        return None
    return {identifier: _read(identifier, part) for identifier, part in parts.items()}


def _read(identifier: str, part: msgspec.Raw) -> StoredDiscovery | None:
    try:
        return msgspec.json.decode(part, type=StoredDiscovery)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        log.warning("the stored tools of the capability %s cannot be read: %s", identifier, error)
        return None


def _stored(tool: Tool) -> StoredTool:
    return StoredTool(**{name: getattr(tool, name) for name in StoredTool.__struct_fields__})


def restored(active: Active, stored: StoredDiscovery, current: Sequence[Tool]) -> Discovered:
    """The result of a discovery as it was stored.

    Args:
        current: the tools that the capability finds now, for one that cannot restore them.
    """
    by_name = {tool.name: tool for tool in current}
    tools = (_restored(active, each, by_name.get(each.name)) for each in stored.tools)
    return Discovered(stored.prompt, tuple(tools), stored.name, stored.fault)


def _restored(active: Active, stored: StoredTool, current: Tool | None) -> Tool:
    facts = asdict(stored)
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


def facts_of(tools: Sequence[Any]) -> list[list[Any]]:
    """All of these tools but their functions."""
    return [
        [getattr(tool, name) for name in StoredTool.__struct_fields__]
        for tool in tools
        if isinstance(tool, Tool)
    ]


def usable(tools: Sequence[Any]) -> tuple[tuple[Tool, ...], tuple[str, ...]]:
    """The tools that a model can be offered, sorted by name, and why the others are left out.

    Names and schemas that a vendor refuses would fail every model call. Fields of a wrong type could not be
    read back from the stored list. Several calls take a share of a second if the schemas are large.

    Raises:
        ToolError: the tools hold so much that they are not looked at.
    """
    if weight_of(facts_of(tools), MAX_WEIGHT) > MAX_WEIGHT:
        raise ToolError(
            f"the descriptions and schemas of its tools have more than {MAX_WEIGHT >> 20} MB: find less"
        )
    kept: dict[str, Tool] = {}
    faults: list[str] = []
    budget, room = SchemaBudget(), MAX_LIST
    for each in sorted(tools, key=_name_of):
        name = _name_of(each)
        try:
            if name in kept or len(kept) == MAX_TOOLS:
                raise ValueError(f"another tool has this name, or there are {MAX_TOOLS} tools already")
            tool, size = _as_stored(each, budget)
            if size > room:
                raise ValueError(f"with it, the tools have more than {MAX_LIST} bytes")
        except _FAULTS as fault:
            faults.append(f"{name[:64]!r}: {fault}")
            continue
        room -= size
        kept[name] = tool
    return tuple(kept.values()), tuple(faults)


_FAULTS = (
    PerdureError,
    msgspec.MsgspecError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What checking and encoding a tool of any content raises."""


def _name_of(tool: Any) -> str:
    return tool.name if isinstance(tool, Tool) and isinstance(tool.name, str) else ""


def _as_stored(tool: Any, budget: SchemaBudget) -> tuple[Tool, int]:
    """The tool as it will be read from the stored list, and its bytes there.

    Raises:
        One of _FAULTS: no model can be offered it, or it could not be read.
    """
    if not isinstance(tool, Tool):
        raise TypeError(f"it is of the type {type(tool).__name__}, not a Tool")
    _check_fields(tool)
    if weight_of(facts_of((tool,)), MAX_LIST) > MAX_LIST:
        raise ValueError(f"it has more than {MAX_LIST} bytes")
    check_schema(tool.parameters, tool.name, budget)
    label = tool.display_name
    shown = storable(label[:MAX_LABEL]) if isinstance(label, str) else label
    text = replace(tool, description=storable(tool.description), display_name=shown)
    data = msgspec.json.encode(_stored(text))
    return replace(text, **asdict(msgspec.json.decode(data, type=StoredTool))), len(data)


def _check_fields(tool: Any) -> None:
    if not _NAME.fullmatch(tool.name) or tool.name == APPROVE:
        raise ValueError("its name is not one that a tool can have")
    if not isinstance(tool.description, str) or len(tool.description) > MAX_DESCRIPTION:
        raise ValueError(f"its description is not a text of up to {MAX_DESCRIPTION} characters")
    if not callable(tool.run) or not (tool.verify is None or callable(tool.verify)):
        raise TypeError("its `run` or `verify` is not a function")


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
