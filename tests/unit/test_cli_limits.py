"""`perdure limits` and `perdure budgets`: what they send, and what they print of the answers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from perdure.cli import budgets, limits
from perdure.cli.budgets import period_of, price_of
from perdure.domain.budget_periods import CalendarPeriod, DurationPeriod, RollingPeriod
from perdure.domain.ids import new_id
from tests.unit.fake_server import FakeServer, Reply, Request

ORG = new_id("org")
BUDGET = new_id("budget")
WHO = {
    "id": new_id("user"), "name": "Ada", "email": "ada@example.com", "organization_id": ORG,
    "organization_name": "Acme", "role": "owner", "scopes": ["*"],
}  # fmt: skip
VALUES = {
    "active_turns": {"limit": 20, "used": 3},
    "open_sessions": {"limit": None, "used": 4},
    "requests_per_minute": {"limit": 600, "used": 5},
    "tokens_per_minute": {"limit": None, "used": 0},
}
LIMITS = {"organization": VALUES, "user": VALUES, "waiting_turns": 2, "set_organization": {}, "set_user": {}}
NOW = "2026-03-14T09:26:53.589793Z"


def budget(**fields: Any) -> dict[str, Any]:
    return {
        "id": BUDGET, "organization_id": ORG, "subject_type": "organization", "subject_id": ORG,
        "currency": "usd", "limit": 10.0, "balance": 5.0, "status": "active", "created_at": NOW,
        "updated_at": NOW, "spent": 5.0, "reserved": 0.0, "topped_up": 0.0, **fields,
    }  # fmt: skip


APPS = {"limits": limits.app, "budgets": budgets.app}


async def run(answer: Any, group: str, *arguments: str) -> tuple[Result, list[Request]]:
    """Run a command; the server gives this answer to all requests but for the caller's identity."""

    async def handle(request: Request, reply: Reply) -> None:
        await reply.json(200, WHO if request.path == "/v1/auth/me" else answer)

    async with FakeServer(handle) as server:
        command = [*arguments, "--url", server.url]
        result = await asyncio.to_thread(CliRunner().invoke, APPS[group], command)
    return result, [each for each in server.requests if each.path != "/v1/auth/me"]


async def test_limits_are_shown_beside_what_is_used_of_them() -> None:
    result, (request,) = await run(LIMITS, "limits", "show")
    assert (request.method, request.path) == ("GET", f"/v1/orgs/{ORG}/limits")
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert lines == [
        ["LIMIT", "ORGANIZATION", "YOU"],
        ["active_turns", "3 of 20", "3 of 20"],
        ["open_sessions", "4 of no limit", "4 of no limit"],
        ["requests_per_minute", "5 of 600", "5 of 600"],
        ["tokens_per_minute", "0 of no limit", "0 of no limit"],
        ["2 turns wait for others to end"],
    ]


@pytest.mark.parametrize(("option", "whose"), [((), "organization"), (("--user",), "user")])
async def test_limits_are_set_of_the_organization_or_of_each_user(
    option: tuple[str, ...], whose: str
) -> None:
    result, (request,) = await run(
        LIMITS, "limits", "set", *option, "active_turns=20", "tokens_per_minute=server", "--json"
    )
    assert (request.method, request.json()) == (
        "PATCH", {whose: {"active_turns": 20, "tokens_per_minute": None}},
    )  # fmt: skip
    assert json.loads(result.stdout)["waiting_turns"] == 2


@pytest.mark.parametrize("wrong", ["active_turns=many", "turns=3", "active_turns", "active_turns=-1"])
async def test_what_is_no_limit_is_refused_before_anything_is_sent(wrong: str) -> None:
    result, requests = await run(LIMITS, "limits", "set", wrong)
    assert (result.exit_code, requests) == (2, [])


async def test_a_budget_of_the_organization_is_created_and_shown() -> None:
    answer = budget(
        reserved=1.0, topped_up=2.0, soft_limit=8.0, period={"type": "rolling", "window": "24h"},
        next_period_at=NOW, unpriced={"input": 3.0, "output": 15.0},
    )  # fmt: skip
    result, (request,) = await run(
        answer, "budgets", "create", "organization", "10", "--period", "24h", "--unpriced", "3/15"
    )
    assert result.exit_code == 0, result.output
    sent = request.json()
    assert (sent["subject_type"], sent["subject_id"], sent["currency"]) == ("organization", ORG, "usd")
    assert (sent["period"], sent["unpriced"]) == (answer["period"], answer["unpriced"])
    for part in ("the last 24h", "$1.00", "$5.00 of $12.00", "$2.00", "$8.00", "3.0/15.0", NOW):
        assert part in result.stdout


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"period": {"type": "duration", "seconds": 90}}, "90 seconds"),
        ({"period": {"type": "calendar", "unit": "week", "time_zone": "UTC"}}, "each week (UTC)"),
        ({"limit": 0.0, "balance": 0.0, "spent": 0.0}, "█" * 20),
        ({"currency": "tokens", "limit": 1000.0, "balance": 400.0}, "400 tokens of 1,000 tokens"),
    ],
)
async def test_a_budget_is_shown_in_words(fields: dict[str, Any], part: str) -> None:
    result, _ = await run(budget(**fields), "budgets", "show", BUDGET)
    assert part in result.stdout


async def test_a_change_that_contradicts_itself_is_refused() -> None:
    result, requests = await run(budget(), "budgets", "set", BUDGET, "--soft-limit", "3", "--no-soft-limit")
    assert (result.exit_code, requests) == (2, [])
    result, (request,) = await run(budget(), "budgets", "set", BUDGET, "--no-soft-limit", "--json")
    assert (request.json(), json.loads(result.stdout)["id"]) == ({"soft_limit": None}, BUDGET)


@pytest.mark.parametrize(
    ("answer", "arguments", "status", "said"),
    [
        ({"action": "allow"}, (), 0, "allow: there is money\n"),
        ({"action": "warn", "message": "little is left"}, (), 0, "warn: little is left\n"),
        ({"action": "pause"}, (), 1, ""),
        ({"action": "pause"}, ("--json",), 1, '{"action":"pause"}'),
    ],
)
async def test_a_check_says_whether_there_is_money(
    answer: dict[str, str], arguments: tuple[str, ...], status: int, said: str
) -> None:
    result, (request,) = await run(answer, "budgets", "check", BUDGET, *arguments)
    assert (request.path, result.exit_code) == (f"/v1/budgets/{BUDGET}/check", status)
    assert "".join(result.stdout.split()) == "".join(said.split())


async def test_a_ledger_says_what_was_charged_and_credited() -> None:
    entries = [
        {"amount": 0.5, "meter_source": "model", "session_id": new_id("session")},
        {"amount": -2.0, "meter_source": "top_up", "ref_id": WHO["id"]},
    ]
    page = {
        "data": [{"id": "entry_1", "budget_id": BUDGET, "created_at": NOW, **each} for each in entries],
        "total": 2, "offset": 0, "limit": 50,
    }  # fmt: skip
    result, requests = await run({**budget(), **page, "limit": 50}, "budgets", "ledger", BUDGET)
    assert [request.path for request in requests] == [
        f"/v1/budgets/{BUDGET}", f"/v1/budgets/{BUDGET}/ledger",
    ]  # fmt: skip
    assert [line.split("\t")[1:] for line in result.stdout.splitlines()[1:]] == [
        ["$0.50", "model", entries[0]["session_id"]],
        ["-$2.00", "top_up", WHO["id"]],
    ]


def test_periods_and_prices_are_read_from_options() -> None:
    assert period_of(None, None) is None
    assert period_of("month", None) == CalendarPeriod("month", "UTC")
    assert period_of("3600", None) == DurationPeriod(3600)
    assert period_of("24h", None) == RollingPeriod("24h")
    assert price_of(None) is None
    for text in ("3", "three/four", "/"):
        with pytest.raises(Exception, match="is not IN/OUT"):
            price_of(text)
    with pytest.raises(Exception, match="only periods of the calendar"):
        period_of("24h", "UTC")
