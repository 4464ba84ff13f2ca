"""Guardrails over HTTP: trials, examples, and configurations that are refused before anything is stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from perdure.client import ApiError, Client
from perdure.domain.ids import new_id
from tests.command import perdure
from tests.journeys.people import elsewhere, fresh, get, new_agent, new_harness, patch
from tests.server import Server, post
from tests.talk import Json

DRY_RUN = "/v1/capabilities/guardrails/dry-run"
CARD = "4111 1111 1111 1111"


def guarded(*checks: Json) -> list[Json]:
    return [{"ref": "session"}, {"ref": "guardrails", "config": {"checks": list(checks)}}]


async def tried(api: httpx.AsyncClient, stage: str, text: str, *checks: Json, **more: Any) -> Json:
    body = {"config": {"checks": list(checks)}, "stage": stage, "text": text, **more}
    found: Json = await post(api, DRY_RUN, body, 200)
    return found


async def test_a_dry_run_says_what_each_check_finds(api: httpx.AsyncClient) -> None:
    found = await tried(
        api,
        "output",
        f"Use {CARD}, damn it.",
        {"type": "pii", "id": "cards", "kinds": ["credit_card"], "replacement": "No."},
        {"type": "blocklist", "words": ["damn"], "action": "log", "reason_code": "rude"},
        {"type": "regex", "pattern": "Use", "stage": "tool_use"},
    )
    assert found == {
        "hits": [
            {
                "check_index": 0,
                "check_id": "cards",
                "stage": "output",
                "rule_type": "pii",
                "action": "block",
                "reason_code": "pii_credit_card",
                "matched": CARD,
                "replacement": "No.",
            },
            {
                "check_index": 1,
                "check_id": "blocklist_2",
                "stage": "output",
                "rule_type": "blocklist",
                "action": "log",
                "reason_code": "rude",
                "matched": "damn",
            },
        ],
        "blocked": True,
    }
    assert await tried(api, "output", "fine", {"type": "pii"}) == {"hits": [], "blocked": False}


async def test_arguments_are_searched_as_they_are_written_and_as_they_are_meant(
    api: httpx.AsyncClient,
) -> None:
    text = json.dumps({"command": 'echo "a"\nrm\t-rf /', "count": 12_345, "caf\u00e9": [True]})
    for pattern, matched in (
        (r"rm\s-rf", "rm\t-rf"),
        (r'echo "a"', 'echo "a"'),
        (r'"count":\s?\d{5}', '"count":12345'),
        ("café", "café"),
    ):
        found = await tried(api, "tool_use", text, {"type": "regex", "stage": "tool_use", "pattern": pattern})
        assert [hit["matched"] for hit in found["hits"]] == [matched]


async def test_checks_of_tools_need_the_tools_name(api: httpx.AsyncClient) -> None:
    check = {"type": "tool_pattern", "stage": "tool_use", "tool": "mcp_*", "action": "ask"}
    for tool, hits in (("mcp_shop__buy", 1), ("bash", 0), (None, 0)):
        found = await tried(api, "tool_use", '{"a": "b", "c": "d"}', check, tool_name=tool)
        assert (len(found["hits"]), found["blocked"]) == (hits, False)


async def test_a_dry_run_calls_no_service_and_says_so(api: httpx.AsyncClient) -> None:
    judge = {"type": "judge", "id": "kind", "policy": "Be kind.", "model_id": new_id("model")}
    moderation = {"type": "moderation", "url": "http://127.0.0.1:9/none", "stage": "tool_use"}
    assert await tried(api, "output", "text", judge, moderation) == {
        "hits": [],
        "blocked": False,
        "not_run": [{"check_index": 0, "check_id": "kind", "rule_type": "judge"}],
    }


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"config": {"checks": [{"type": "regex", "pattern": "(a"}]}}, "config.checks[0].pattern"),
        ({"config": {"checks": 5}}, "config.checks"),
        ({"config": {"check": []}}, "config"),
        ({"config": [], "stage": "output"}, None),
        ({"stage": "input"}, None),
        ({"text": "a" * 200_001}, None),
        ({"text": None}, None),
    ],
)
async def test_a_dry_run_that_cannot_be_made_is_refused(
    api: httpx.AsyncClient, body: Json, field: str | None
) -> None:
    problem = await post(api, DRY_RUN, {"config": {}, "stage": "output", "text": "a", **body}, 400)
    if field is not None:
        assert (problem["code"], problem["field"]) == ("invalid_capability_config", field)


async def test_every_example_can_be_tried_and_stored(api: httpx.AsyncClient) -> None:
    examples = (await get(api, "/v1/capabilities/guardrails/examples"))["examples"]
    assert len(examples) >= 12
    for example in examples:
        for stage in example["stages"]:
            await tried(api, stage, "Hello.", *example["config"]["checks"], tool_name="bash")
    agent = await new_agent(api, capabilities=guarded(*examples[0]["config"]["checks"]))
    assert agent["capabilities"][1]["config"] == examples[0]["config"]


@pytest.mark.parametrize("path", ["/v1/agents", "/v1/harnesses", "/v1/sessions"])
async def test_a_check_that_cannot_work_is_refused_where_it_would_be_stored(
    api: httpx.AsyncClient, path: str
) -> None:
    body: Json = {} if path == "/v1/sessions" else {"name": fresh("never"), "system_prompt": "x"}
    for check, field in (
        ({"type": "regex", "id": "mine", "pattern": "a**"}, "pattern"),
        ({"type": "regex", "id": "mine", "pattern": r"\pL{1000}"}, "pattern"),
        ({"type": "pii", "id": "mine", "countries": ["zz"]}, "countries"),
        ({"type": "judge", "id": "mine", "policy": "x", "model_id": new_id("model")}, "model_id"),
        ({"type": "judge", "id": "mine", "policy": "x", "model_id": "gpt"}, "model_id"),
        ({"type": "moderation", "id": "mine", "provider_id": new_id("provider")}, "provider_id"),
    ):
        capabilities = guarded({"type": "regex", "pattern": "fine"}, check)
        problem = await post(api, path, {**body, "capabilities": capabilities}, 400)
        where = f"capabilities[1].config.checks[1].{field}"
        assert where in problem["detail"]


async def test_a_change_and_a_blueprint_are_checked_too(api: httpx.AsyncClient) -> None:
    bad = guarded({"type": "regex", "id": "mine", "pattern": "[a"})
    agent = await new_agent(api)
    harness = await new_harness(api)
    for path in (f"/v1/agents/{agent['id']}", f"/v1/harnesses/{harness['id']}"):
        problem = await patch(api, path, {"capabilities": bad}, 400)
        assert "(check `mine`)" in problem["detail"]
    inside = {"description": "d", "capabilities": bad}
    capabilities = [{"ref": "subagents", "config": {"blueprints": {"helper": inside}}}]
    problem = await post(api, "/v1/sessions", {"capabilities": capabilities}, 400)
    assert ".blueprints.helper.capabilities[1].config.checks[0].pattern" in problem["detail"]


@pytest.mark.parametrize("check", [{"type": "regex", "pattern": "[a"}, {"type": "none"}])
async def test_a_preview_has_one_finding_about_a_bad_check(api: httpx.AsyncClient, check: Json) -> None:
    body = {"name": "a", "system_prompt": "You help people with orders.", "capabilities": guarded(check)}
    found = (await post(api, "/v1/agents/preview", body, 200))["findings"]
    assert [each["rule_id"] for each in found if "checks[0]" in each["message"]] == [
        "invalid_capability_config"
    ]


async def test_a_model_and_a_provider_of_another_organization_are_unknown(api: httpx.AsyncClient) -> None:
    model = (await get(api, "/v1/models"))["data"][0]
    judge = {"type": "judge", "policy": "Be kind.", "model_id": model["id"]}
    moderation = {"type": "moderation", "provider_id": model["provider_id"]}
    assert (await new_agent(api, capabilities=guarded(judge, moderation)))["id"]
    api.headers.update(await elsewhere(api))
    for check in (judge, moderation):
        await post(api, "/v1/sessions", {"capabilities": guarded(check)}, 400)


async def test_the_schema_of_the_configuration_is_shown_and_it_is_a_guardrail(api: httpx.AsyncClient) -> None:
    found = await get(api, "/v1/capabilities/guardrails")
    assert found["is_guardrail"] is True
    assert (
        "blocklist" in found["config_schema"]["properties"]["checks"]["items"]["properties"]["type"]["enum"]
    )
    assert "is_guardrail" not in await get(api, "/v1/capabilities/session")


async def test_the_client_and_the_command_try_guardrails(server: Server, tmp_path: Path) -> None:
    async with Client(server.url) as client:
        examples = await client.list_guardrail_examples()
        config = next(each.config for each in examples if each.name == "card_numbers")
        assert (await client.dry_run_guardrails(config, "output", CARD)).blocked
        with pytest.raises(ApiError):
            await client.dry_run_guardrails({"checks": [{"type": "none"}]}, "output", CARD)
    path = tmp_path / "checks.json"

    async def run(*arguments: str, given: str = "", status: int = 0) -> str:
        done = await perdure("guardrails", *arguments, url=server.url, given=given)
        assert done.status == status, done.err
        return done.out or done.err

    path.write_text(await run("examples", "card_numbers"))
    assert json.loads(path.read_text()) == config
    listed = (await run("examples")).splitlines()
    assert (listed[0].split("\t")[0], len(listed)) == ("NAME", len(examples) + 1)
    assert (await run("check", str(path), given=f"Pay with {CARD}.")).splitlines() == [
        "CHECK\tTYPE\tACTION\tREASON\tMATCHED",
        f"card_numbers\tpii\tblock\tpii_credit_card\t{CARD}",
        "The text is blocked.",
    ]
    found = json.loads(
        await run("check", "-", str(path), "--json", "--stage", "tool_use", given=path.read_text())
    )
    assert found == {"hits": [], "blocked": False}
    path.write_text(json.dumps({"checks": [{"type": "judge", "id": "kind", "policy": "Be kind."}]}))
    assert await run("check", str(path), given="Hi.") == "The text is not blocked.\nNot run: kind\n"
    path.write_text("[]")
    assert "must have an object" in await run("check", str(path), status=2)
    assert "cannot both be standard input" in await run("check", "-", status=2)
