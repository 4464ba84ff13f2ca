"""The official conformance suite against `POST /mcp`: what fails is explained here, and nothing else fails.

The suite is made for servers that offer its own tools, prompts and resources. Perdure offers its use cases,
and says so in its capabilities; what is left of the suite is the protocol itself.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.mcp_client import STATELESS
from tests.mcp_peers import CONFORMANCE, node, require
from tests.server import Server
from tests.talk import Json

NOT_OFFERED = (
    "has no method 'completion/complete'",
    "has no method 'logging/setLevel'",
    "has no method 'prompts/get'",
    "has no method 'prompts/list'",
    "has no method 'resources/list'",
    "has no method 'resources/read'",
    "has no method 'resources/subscribe'",
    "has no method 'resources/templates/list'",
)
"""Parts of the protocol that the server does not declare, so that no client asks for them."""

OTHER_TOOLS = (
    "no tool is named 'test_",
    "Tool 'json_schema_2020_12_tool' not found",
    "Not testable: server does not list the diagnostic tool",
    "Not testable: server exposes no tool with x-mcp-header annotations",
    "Expected InputRequiredResult with inputRequests",  # test_input_required_result_multi_round
    "Prerequisite failed: could not get initial InputRequiredResult",  # test_input_required_result_...
)
"""Tools of the suite's own server."""

EXTENSIONS = ("server-tasks-",)
"""Scenarios of an extension that the server does not declare."""

LEAST = {"2025-11-25": 35, STATELESS: 90}
"""How many checks pass at least."""


class Failure(NamedTuple):
    scenario: str
    check: str
    message: str

    @property
    def explained(self) -> bool:
        return self.scenario.startswith(EXTENSIONS) or any(
            reason in self.message for reason in (*NOT_OFFERED, *OTHER_TOOLS)
        )


@pytest.mark.parametrize("revision", ["2025-11-25", STATELESS])
async def test_only_explained_checks_of_the_conformance_suite_fail(
    sqlite_server: Server, tmp_path: Path, revision: str
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(str(node()), str(require(CONFORMANCE)), "server", "--url", f"{sqlite_server.url}/mcp"),
        *("--requirements", revision, "-o", str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 120)
    checks: list[tuple[str, Json]] = [
        (path.parent.name, check)
        for path in sorted(tmp_path.glob("*/checks.json"))
        for check in json.loads(path.read_text())
    ]
    failures = [
        Failure(scenario, check["id"], check.get("errorMessage") or "")
        for scenario, check in checks
        if check["status"] == "FAILURE"
    ]
    assert [each for each in failures if not each.explained] == [], out.decode()[-2000:]
    assert sum(check["status"] == "SUCCESS" for _, check in checks) >= LEAST[revision]
