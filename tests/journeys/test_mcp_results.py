"""What the model reads of the results of MCP servers' tools."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from perdure.domain.messages import ImagePart, TextPart
from tests.journeys.mcp_inside import hosting
from tests.journeys.test_mcp_calls import shop, uses
from tests.mcp_stub import Call, McpStub, text, tool

Json = dict[str, Any]

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="


@pytest.mark.parametrize(
    ("result", "seen"),
    [
        (text("One."), "One."),
        ({"content": [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]}, "A\n\nB"),
        ({"content": [], "structuredContent": {"n": 1}}, '{"n":1}'),
        (text('{"n": 1}', structuredContent={"n": 1}), '{"n": 1}'),
        (text("See.", structuredContent={"n": 1}), 'See.\n\n{"n":1}'),
        (
            {"content": [{"type": "resource_link", "uri": "a://b", "name": "B"}]},
            "[link to the resource a://b, B]",
        ),
        (
            {"content": [{"type": "resource", "resource": {"uri": "a://b", "text": "T"}}]},
            "[resource a://b]\nT",
        ),
        (
            {"content": [{"type": "audio", "data": "AAAA", "mimeType": "audio/wav"}]},
            "[audio, audio/wav, 3 bytes: it cannot be shown]",
        ),
        (text("No tea left.", isError=True), "No tea left."),
    ],
)
async def test_results_of_all_kinds_reach_the_model(
    result: Json, seen: str, database_url: str, tmp_path: Path
) -> None:
    async def answer(made: Call) -> Json:
        return result

    async with (
        McpStub([tool("buy")], answer=answer) as stub,
        hosting(database_url, tmp_path, *uses("buy"), servers=shop(stub)) as host,
    ):
        await host.ask()
        assert await host.said() == [seen]
        (ended,) = await host.ended()
        assert ended.success is not result.get("isError", False)


@pytest.mark.parametrize("size", [0, 600_000])
async def test_an_image_reaches_the_model_as_an_image(size: int, database_url: str, tmp_path: Path) -> None:
    data = base64.b64encode(base64.b64decode(PIXEL) + bytes(size)).decode()

    async def draws(made: Call) -> Json:
        image = {"type": "image", "data": data, "mimeType": "image/png"}
        return {"content": [image, {"type": "text", "text": "Look:"}]}

    async with (
        McpStub([tool("draw")], answer=draws) as stub,
        hosting(database_url, tmp_path, *uses("draw"), servers=shop(stub)) as host,
    ):
        await host.ask()
        (ended,) = await host.ended()
        assert ended.result == (TextPart("Look:"), ImagePart(base64=data, media_type="image/png"))
        assert host.driver.requests[-1].messages[-1].content[0].result == [
            {"type": "text", "text": "Look:"},
            {"type": "image", "base64": data, "media_type": "image/png"},
        ]
