"""Previews of agents, and the findings of an analysis."""

from __future__ import annotations

import httpx
import pytest

from perdure.capabilities.sections import NOT_READ
from tests.journeys.people import (
    LOOK_UP,
    PROMPT,
    new_agent,
    watched_model,
)
from tests.server import post
from tests.talk import Json, new_talk


async def test_a_preview_is_what_the_model_gets(api: httpx.AsyncClient) -> None:
    shape: Json = {"system_prompt": PROMPT, "capabilities": [{"ref": "current_time"}], "tools": [LOOK_UP]}
    preview = await post(api, "/v1/agents/preview", {**shape, "harness_name": "generic"}, 200)
    async with watched_model(api) as model:
        agent = await new_agent(api, **shape, default_model_id=model.id)
        talk = await new_talk(api, agent_id=agent["id"])
        model.will_answer()
        await talk.turn()
        # This session has no AGENTS.md and no skills: the prompt has no text where the preview has a
        # placeholder.
        expected = preview["system_prompt"].replace("<agent>", f'<agent name="{agent["name"]}">')
        for capability in ("agent_instructions", "skills"):
            unread = f'<capability id="{capability}">\n{NOT_READ}\n</capability>\n\n'
            assert unread in expected
            expected = expected.replace(unread, "")
        assert model.told == expected
        assert model.tools == [tool["name"] for tool in preview["tools"]]
        assert {"read_file", "get_current_time", "look_up"} <= set(model.tools)


async def test_a_preview_without_a_harness_shows_the_agent_by_itself(api: httpx.AsyncClient) -> None:
    shape: Json = {"system_prompt": PROMPT, "capabilities": [{"ref": "current_time"}], "tools": [LOOK_UP]}
    preview = await post(api, "/v1/agents/preview", shape, 200)
    assert [(tool["name"], tool["type"]) for tool in preview["tools"]] == [
        ("get_current_time", "builtin"),
        ("look_up", "client_side"),
    ]
    assert preview["system_prompt"] == f"<agent>\n{PROMPT}\n</agent>"
    assert (await post(api, "/v1/agents/preview", {**shape, "harness_id": "generic"}, 400))[
        "code"
    ] == "invalid_id"
    both = {**shape, "harness_name": "generic", "harness_id": f"harness_{'0' * 32}"}
    assert (await post(api, "/v1/agents/preview", both, 400))["field"] == "harness_id"


async def test_an_analysis_names_what_deserves_a_second_look(api: httpx.AsyncClient) -> None:
    parameters = {"type": "object", "properties": {"id": {"type": "string"}}}
    shape: Json = {
        "system_prompt": "Grüße {{customer}}. Use sk-abcdefghijklmnopqrstuvwx for the shop, please.",
        "capabilities": [
            {"ref": "nothing"},
            {"ref": "tool_approval", "config": {"mode": "x"}},
            {"ref": "current_time"},
        ],
        "tools": [
            {**LOOK_UP, "description": " ", "parameters": parameters},
            LOOK_UP,
            {**LOOK_UP, "name": "get_current_time"},
            {
                "type": "builtin",
                "name": "teleport",
                "description": "Go.",
                "parameters": {},
                "hints": {"destructive": True},
            },
        ],
    }
    findings = (await post(api, "/v1/agents/analyze", shape, 200))["findings"]
    assert [(each["rule_id"], each["location"]["field"]) for each in findings] == [
        ("unknown_capability", "capabilities[0]"),
        ("invalid_capability_config", "capabilities[1]"),
        ("duplicate_tool", "tools[1]"),
        ("duplicate_tool", "tools[2]"),
        ("unknown_builtin_tool", "tools[3].name"),
        ("unknown_variable", "system_prompt"),
        ("secret_in_prompt", "system_prompt"),
        ("unfilled_placeholder", "system_prompt"),
        ("tool_undescribed", "tools[0].description"),
        ("parameters_undescribed", "tools[0].parameters"),
        ("destructive_without_approval", "tools[3].policy"),
    ]
    place = findings[7]["location"]
    assert shape["system_prompt"].encode()[place["start"] : place["end"]] == b"{{customer}}"
    assert (await post(api, "/v1/agents/preview", shape, 200))["findings"] == findings
    good = {"system_prompt": PROMPT, "capabilities": [{"ref": "current_time"}], "tools": [LOOK_UP]}
    assert await post(api, "/v1/agents/analyze", good, 200) == {"findings": []}


@pytest.mark.parametrize(
    ("shape", "rule"),
    [
        ({"system_prompt": " "}, "prompt_empty"),
        ({"system_prompt": "Help."}, "prompt_short"),
        ({"system_prompt": "Help people. " * 3000}, "prompt_long"),
        ({"system_prompt": PROMPT, "tools": [{**LOOK_UP, "name": f"t{n}"} for n in range(41)]}, "many_tools"),
    ],
)
async def test_an_analysis_looks_at_sizes_too(api: httpx.AsyncClient, shape: Json, rule: str) -> None:
    assert [each["rule_id"] for each in (await post(api, "/v1/agents/analyze", shape, 200))["findings"]] == [
        rule
    ]
