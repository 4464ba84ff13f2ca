"""Tools of MCP servers in a session: offered, called, refused, and what the model reads of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from perdure.domain.mcp_servers import InlineMcpServer
from tests.journeys.mcp_inside import hosting
from tests.mcp_stub import Call, McpStub, RpcFault, text, tool
from tests.talk import call

Json = dict[str, Any]


def uses(name: str, **arguments: Any) -> tuple[Json, Json]:
    return {"tool_calls": [call(f"mcp_shop__{name}", **arguments)]}, {"text": "Done."}


async def test_a_model_calls_a_tool_of_an_inline_server(database_url: str, tmp_path: Path) -> None:
    stub = McpStub([tool("order.create", title="x")], instructions="Order <b>early</b>.")
    async with stub, hosting(
        database_url,
        tmp_path,
        *uses("order_create_c4cc92e1"),
        servers={"Shop": InlineMcpServer(url=stub.url)},
    ) as host:
        await host.ask()
        print(host.offered(), await host.said())
        (ended,) = await host.ended()
        assert ended.capability_id == "mcp_inline:Shop"
        assert ended.capability_name == "Shop"
        assert "Order <b>early</b>." in host.driver.requests[0].system
