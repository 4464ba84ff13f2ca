"""Capabilities: listing, search, and the validation of their configurations."""

from __future__ import annotations

import httpx
import jsonschema_rs
import pytest

from perdure.capabilities.port import Capability
from perdure.tools.built_in import catalogue
from tests.journeys.people import elsewhere, get, new_agent
from tests.server import post

IDS = sorted(capability.id for capability in catalogue())


async def test_every_capability_is_listed_once_in_order(api: httpx.AsyncClient) -> None:
    api.headers.update(await elsewhere(api))  # MCP servers of other tests are capabilities too
    page = await get(api, "/v1/capabilities", limit=100)
    assert [each["id"] for each in page["data"]] == IDS
    assert page["total"] == len(IDS)


async def test_pages_have_the_requested_size(api: httpx.AsyncClient) -> None:
    api.headers.update(await elsewhere(api))
    found: list[str] = []
    for offset in range(0, len(IDS) + 2, 2):
        page = await get(api, "/v1/capabilities", offset=offset, limit=2)
        assert (page["total"], page["offset"], page["limit"]) == (len(IDS), offset, 2)
        found += [each["id"] for each in page["data"]]
    assert found == IDS
    for query in ({"limit": 0}, {"limit": 101}, {"offset": -1}, {"limit": "x"}):
        await get(api, "/v1/capabilities", 400, **query)


async def test_a_search_looks_at_ids_names_and_descriptions_in_any_case(api: httpx.AsyncClient) -> None:
    for search in ("current_time", "CURRENT TIME", "any time zone"):
        assert [each["id"] for each in (await get(api, "/v1/capabilities", search=search))["data"]] == [
            "current_time"
        ]
    assert (await get(api, "/v1/capabilities", search="no such thing"))["data"] == []


@pytest.mark.parametrize("capability", catalogue(), ids=lambda each: each.id)
async def test_a_capability_is_found_by_its_id_and_by_its_other_names(
    api: httpx.AsyncClient, capability: Capability
) -> None:
    for ref in (capability.id, *capability.aliases):
        found = await get(api, f"/v1/capabilities/{ref}")
        assert (found["id"], found["self_url"]) == (capability.id, f"/v1/capabilities/{capability.id}")
        assert [tool["name"] for tool in found.get("tool_definitions", ())] == [
            tool.name for tool in capability.tools(None)
        ]
        if capability.config_schema is not None:
            jsonschema_rs.meta.validate(found["config_schema"])


async def test_an_unknown_capability_is_not_found(api: httpx.AsyncClient) -> None:
    assert (await get(api, "/v1/capabilities/nothing", 404))["code"] == "capability_not_found"


@pytest.mark.parametrize("config", [None, {}, {"mode": "off"}])
async def test_a_valid_configuration_is_stored_unchanged(api: httpx.AsyncClient, config: object) -> None:
    ref = {"ref": "tool_approval"} if config is None else {"ref": "tool_approval", "config": config}
    assert (await new_agent(api, capabilities=[ref]))["capabilities"] == [ref]


@pytest.mark.parametrize("config", [{"mode": "sometimes"}, {"more": 1}, [], "off", 1])
@pytest.mark.parametrize("path", ["/v1/agents", "/v1/harnesses", "/v1/sessions"])
async def test_an_invalid_configuration_gets_an_error_with_its_location(
    api: httpx.AsyncClient, path: str, config: object
) -> None:
    body = {"capabilities": [{"ref": "session"}, {"ref": "tool_approval", "config": config}]}
    if path != "/v1/sessions":
        body |= {"name": "never-made", "system_prompt": "x"}  # type: ignore[dict-item]
    problem = await post(api, path, body, 400)
    field = "capabilities[1].config" + (".mode" if config == {"mode": "sometimes"} else "")
    assert (problem["code"], problem["field"]) == ("invalid_capability_config", field)
