"""Agents that use MCP servers of others: of the official package in both eras, and a published one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tests
from perdure.domain.local_mcp import local_id
from perdure.domain.mcp_servers import InlineMcpServer
from perdure.domain.tools import CapabilityRef
from tests.conformance.mcp.test_published_servers import running
from tests.journeys.mcp_inside import hosting
from tests.mcp_peers import NEW, OLD, require
from tests.ports import free_port
from tests.talk import call

Json = dict[str, Any]
STEPS: tuple[Json, ...] = (
    {"tool_calls": [call("mcp_official__add", a=1, b=2)]},
    {"tool_calls": [call("mcp_official__picture"), call("mcp_official__fail")]},
    {"tool_calls": [call("mcp_read_resource", server="official", uri="note://one")]},
    {"text": "Done."},
)


@pytest.mark.parametrize(
    ("python", "protocol"), [(NEW, "auto"), (NEW, "legacy"), (OLD, "auto")], ids=["new", "new_legacy", "old"]
)
async def test_an_agent_uses_a_server_of_the_official_package(
    python: Path, protocol: Any, tmp_path: Path
) -> None:
    port = free_port()
    program = str(Path(tests.__file__).with_name("mcp_official.py"))
    async with (
        running(str(require(python)), program, str(port), port=port) as url,
        hosting(
            "",
            tmp_path,
            *STEPS,
            servers={"Official": InlineMcpServer(url=url, protocol_mode=protocol)},
        ) as host,
    ):
        await host.ask()
        assert {"mcp_official__add", "mcp_official__ask", "mcp_read_resource"} <= set(host.offered())
        assert "Be kind." in host.driver.requests[0].system
        added, drawn, failed, read = await host.said()
        assert added == "3"
        assert "it cannot be shown" in drawn  # it has no pixels
        assert "fail" in failed
        assert read == "[resource note://one, text/plain]\nthe note"
        assert [each.success for each in await host.ended()] == [True, True, False, True]


async def test_an_agent_uses_a_published_command(tmp_path: Path) -> None:
    servers = {"Time": {"command": str(require(OLD)), "args": ["-m", "mcp_server_time"]}}
    file = tmp_path / "servers.json"
    file.write_text(json.dumps({"mcpServers": servers}))
    steps: tuple[Json, ...] = (
        {"tool_calls": [call("mcp_time__get_current_time", timezone="Europe/Paris")]},
        {"text": "Done."},
    )
    ref = CapabilityRef(f"mcp:{local_id('Time')}")
    async with hosting("", tmp_path, *steps, refs=(ref,), local=file) as host:
        await host.ask()
        assert host.offered() == ["mcp_time__convert_time", "mcp_time__get_current_time"]
        (said,) = await host.said()
        assert json.loads(said)["timezone"] == "Europe/Paris"
