"""Routes of capabilities."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.api.kernel.call import Call
from perdure.api.kernel.route import route
from perdure.api.routes.agents import Search
from perdure.api.routes.sessions import Limit, Offset
from perdure.app import capabilities as use
from perdure.domain.capabilities import CapabilityInfo
from perdure.domain.paging import Page


class ListCapabilities(Struct, frozen=True):
    """Query parameters of the list of capabilities."""

    search: Annotated[
        Search | None,
        Meta(description="Text to find in the id, the name or the description, case-insensitive."),
    ] = None
    offset: Offset = 0
    limit: Limit = 20


@route("GET", "/v1/capabilities", "capabilities")
async def list_capabilities(call: Call, query: ListCapabilities) -> Page[CapabilityInfo]:
    """List capabilities.

    Sorted by id, each with its tools. The organization's MCP servers follow, as `mcp:{id}`, without theirs.
    """
    return await use.page_of_capabilities(call.app, call.caller, query.search, query.offset, query.limit)


@route("GET", "/v1/capabilities/{capability_id}", "capabilities", errors=(404,))
async def get_capability(call: Call, capability_id: str) -> CapabilityInfo:
    """Get a capability.

    `capability_id` may be the capability's id or one of its aliases.
    """
    return await use.read_capability(call.app, call.caller, capability_id)


ROUTES = (
    list_capabilities,
    get_capability,
)
