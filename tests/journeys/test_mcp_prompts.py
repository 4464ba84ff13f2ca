"""`POST /v1/sessions/{session_id}/mcp-prompts`."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.mcp_stub import McpStub, tool
from tests.server import Server, use_simulated_model
from tests.talk import new_talk


async def test_a_repeated_request_with_the_same_key_posts_a_prompt_once(
    database_url: str, tmp_path: Path
) -> None:
    prompt = [{"role": "user", "content": {"type": "text", "text": "Plan a trip."}}]
    server = Server(
        tmp_path / "data", database_url=database_url, environment={"PERDURE_PRIVATE_ADDRESSES": "true"}
    )
    async with (
        McpStub([tool("buy")], prompts={"plan": prompt}) as stub,
        server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        await use_simulated_model(http)
        talk = await new_talk(http, harness_name="base", mcpServers={"Shop": {"url": stub.url}})
        body, key = {"server": "Shop", "name": "plan"}, {"Idempotency-Key": "once"}
        answers = [await http.post(talk.path("/mcp-prompts"), json=body, headers=key) for _ in range(2)]
        assert [each.status_code for each in answers] == [201, 201]
        assert answers[0].json() == answers[1].json()
        await talk.logged_until("session.idled")
        assert [event["type"] for event in await talk.events()].count("input.message") == 1
