"""Routes of capabilities."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.api.kernel.http import Call, Route
from perdure.api.routes.agents import Search
from perdure.api.routes.sessions import Limit, Offset
from perdure.app import capabilities as use
from perdure.domain.capabilities import CapabilityInfo
from perdure.domain.paging import Page


class ListCapabilities(Struct, frozen=True):
    """Query of the list of capabilities."""

    search: Annotated[
        Search | None,
        Meta(description="Text to find in the id, the name or the description, case-insensitive."),
    ] = None
    offset: Offset = 0
    limit: Limit = 20


async def list_capabilities(call: Call) -> Page[CapabilityInfo]:
    query: ListCapabilities = call.query
    return use.page_of_capabilities(call.app, query.search, query.offset, query.limit)


async def get_capability(call: Call) -> CapabilityInfo:
    return use.read_capability(call.app, call.params["capability_id"])


ROUTES = (
    Route("GET", "/v1/capabilities", "list_capabilities", "List capabilities", "capabilities", list_capabilities,
          query=ListCapabilities, returns=Page[CapabilityInfo]),
    Route("GET", "/v1/capabilities/{capability_id}", "get_capability", "Get a capability by id or alias", "capabilities",
          get_capability, returns=CapabilityInfo, errors=(404,)),
)  # fmt: skip
