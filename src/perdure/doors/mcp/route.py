"""The route of the MCP endpoint, which is imported at its first request: most processes get none."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from perdure.api.kernel.call import Call, Reply, Stream
from perdure.api.kernel.decoding import MAX_BODY
from perdure.api.kernel.route import Route, route

if TYPE_CHECKING:
    from perdure.doors.mcp.endpoint import Endpoint


def mcp_route(closing: asyncio.Event) -> Route:
    """Build the route.

    Args:
        closing: set when the server shuts down, so that nobody waits any longer.
    """
    endpoint: Endpoint | None = None

    @route("POST", "/mcp", "mcp", body_limit=MAX_BODY)
    async def mcp(call: Call, body: bytes) -> Reply | Stream:
        """Answer a message of the Model Context Protocol."""
        nonlocal endpoint
        if endpoint is None:
            from perdure.doors.mcp.endpoint import Endpoint

            endpoint = Endpoint(closing)
        return await endpoint.answer(call, body)

    return mcp
