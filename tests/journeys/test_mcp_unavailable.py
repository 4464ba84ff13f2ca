"""MCP servers that are missing, slow or alike: what the model is told, and what still works."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from perdure.app.mcp_servers import create_server, destroy_server
from perdure.domain.ids import McpServerId
from perdure.domain.mcp_servers import CreateMcpServer, InlineMcpServer
from perdure.domain.tools import CapabilityRef
from perdure.tools.mcp import resources
from tests.journeys.mcp_inside import Host, hosting
from tests.mcp_stub import McpStub, tool
from tests.talk import call

Json = dict[str, Any]
KEY = "sk-of-the-market-1"


async def registered(host: Host, url: str, name: str = "Shop", **more: Any) -> CapabilityRef:
    body = CreateMcpServer(name=name, url=url, **more)
    return CapabilityRef(f"mcp:{(await create_server(host.app, host.owner, body)).id}")


async def test_a_call_of_a_missing_servers_tool_says_which_server_is_unavailable(
    database_url: str, tmp_path: Path
) -> None:
    steps: tuple[Json, ...] = ({"tool_calls": [call("mcp_shop__buy")]}, {"text": "Done."})
    async with (
        McpStub([tool("buy")], status=500) as down,
        McpStub([tool("sell")]) as up,
        hosting(database_url, tmp_path, *steps) as host,
    ):
        gone = await registered(host, up.url, "Gone")
        there = await host.with_session(
            refs=(gone,),
            servers={"Shop": InlineMcpServer(url=down.url), "Market": InlineMcpServer(url=up.url)},
        )
        await destroy_server(host.app, host.owner, McpServerId(gone.ref.removeprefix("mcp:")))
        await there.ask()
        (said,) = await there.said()
        assert said.startswith("There is no tool 'mcp_shop__buy'")
        assert "mcp_market__sell" in said
        assert "the MCP server 'Shop': " in said
        assert "status 500" in said
        assert f"the MCP server {gone.ref.removeprefix('mcp:')} does not exist any more" in said


async def test_resources_carry_the_server_that_has_them_and_a_hanging_one_hides_no_other(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "LIST_TIMEOUT", 0.2)
    reads: tuple[Json, ...] = (
        {"tool_calls": [call("mcp_list_resources")]},
        {"tool_calls": [call("mcp_read_resource", server="shop!", uri="note://2")]},
        {"tool_calls": [call("mcp_read_resource", server="market", uri="note://3")]},
        {"tool_calls": [call("mcp_list_resources", server="market")]},
        {"tool_calls": [call("mcp_read_resource", server="shop", uri="note://1")]},
        {"text": "Read."},
    )
    async with (
        McpStub([tool("buy")], resources={"note://1": {"text": "Tea."}}) as shop,
        McpStub([tool("rent")], resources={"note://2": {"text": "Milk."}}) as other,
        McpStub([tool("sell")], resources={"note://3": {"text": f"Mine is {KEY}."}}) as market,
        McpStub([tool("hang")], resources={"note://4": {"text": "Never."}}) as slow,
        McpStub([tool("plain")]) as plain,
        hosting(database_url, tmp_path, *reads) as host,
    ):
        slow.hangs = {"resources/list"}
        there = await host.with_session(
            refs=(await registered(host, market.url, "Market", api_key=KEY),),
            servers={
                "Shop": InlineMcpServer(url=shop.url),
                "shop!": InlineMcpServer(url=other.url),
                "Slow": InlineMcpServer(url=slow.url),
                "Plain": InlineMcpServer(url=plain.url),
            },
        )
        await there.ask()
        listed, second, third, page, ambiguous = await there.said()
        by_server = {each["server"]: each for each in json.loads(listed)["servers"]}
        assert set(by_server) == {"market", "Shop", "shop!", "slow", "plain"}
        assert "within 0.2 seconds" in by_server["slow"]["error"]
        assert "note://2" in str(by_server["shop!"])
        assert "error" in by_server["plain"] or by_server["plain"]["resources"] == []
        assert second == "[resource note://2]\nMilk."
        assert "Mine is [secret" in third
        assert "note://3" in page
        assert "2 MCP servers are called 'shop'" in ambiguous
        ended = await there.ended()
        market_ref = next(ref.ref for ref in there.session.capabilities if ref.ref.startswith("mcp:"))
        assert [(each.capability_id, each.capability_name) for each in ended[1:4]] == [
            ("mcp_inline:shop!", "shop!"),
            (market_ref, "Market"),
            (market_ref, "Market"),
        ]


@pytest.mark.parametrize("refused", ["resources/read", "resources/list"])
async def test_an_error_about_resources_does_not_repeat_the_servers_key(
    refused: str, database_url: str, tmp_path: Path
) -> None:
    name = "mcp_read_resource" if refused == "resources/read" else "mcp_list_resources"
    arguments: Json = {"server": "market", **({"uri": "note://3"} if refused == "resources/read" else {})}
    steps: tuple[Json, ...] = (
        {"tool_calls": [call(name, **arguments)]},
        {"tool_calls": [call("mcp_list_resources")]},
        {"text": "Done."},
    )
    async with (
        McpStub([tool("sell")], resources={"note://3": {"text": "."}}) as market,
        hosting(database_url, tmp_path, *steps) as host,
    ):
        market.refuses = {refused: f"the key {KEY} may not do this"}
        there = await host.with_session(refs=(await registered(host, market.url, "Market", api_key=KEY),))
        await there.ask()
        assert "the key [secret in_a_header" in (await there.said())[0]
        assert KEY not in str(await there.log())
        assert KEY not in str(there.driver.requests)
