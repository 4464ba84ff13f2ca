"""`perdure budgets`, and what other commands say of a session without money."""

from __future__ import annotations

import json

import httpx

from perdure.client import Client
from tests.command import perdure
from tests.journeys.people import fresh
from tests.server import Server, post
from tests.talk import new_talk, script


async def test_the_command_manages_budgets(shared_server: Server) -> None:
    url = shared_server.url
    async with Client(url) as client:
        session = await client.create_session()
        made = await perdure(
            *("budgets", "create", session.id, "10", "--soft-limit", "8", "--period", "month"),
            *("--time-zone", "Europe/Berlin", "--unpriced", "3/15", "--json"),
            url=url,
        )
        budget = json.loads(made.out)
        assert (budget["subject_type"], budget["limit"], budget["soft_limit"]) == ("session", 10, 8)
        assert budget["period"]["time_zone"] == "Europe/Berlin"
        one = budget["id"]
        topped = await perdure("budgets", "top-up", one, "2.5", "--why", "Launch.", url=url)
        assert "$12.50 of $12.50" in topped.out
        changed = await perdure(
            "budgets", "set", one, "--limit", "0", "--no-soft-limit", "--status", "paused", url=url
        )
        assert "paused" in changed.out
        assert "warns at" not in changed.out
        listed = (await perdure("budgets", "list", "--subject", session.id, url=url)).out.splitlines()
        assert [line.split("\t")[:2] for line in listed[1:]] == [[one, "paused"]]
        assert "░" * 20 in listed[1]
        ledger = (await perdure("budgets", "ledger", one, url=url)).out.splitlines()
        assert ledger[1].split("\t")[1:] == ["-$2.50", "top_up", "Launch."]
        stopped = await perdure("budgets", "check", session.id, url=url)
        assert (stopped.status, "is paused" in stopped.err) == (1, True)
        assert (await perdure("budgets", "delete", one, url=url)).out == f"deleted {one}\n"
        assert (await perdure("budgets", "show", one, url=url)).status == 1
        assert (await perdure("budgets", "check", session.id, url=url)).out.startswith("allow")
        wrong = await perdure("budgets", "create", "planet_1", "10", url=url)
        assert (wrong.status, "planet_1" in wrong.err) == (1, True)
        odd = await perdure("budgets", "create", session.id, "1", "--period", "fortnight", url=url)
        assert (odd.status, "--period: 'fortnight' is none of hour, day" in odd.err) == (2, True)


async def test_commands_say_which_budget_stops_a_session(
    shared_server: Server, api: httpx.AsyncClient
) -> None:
    url = shared_server.url
    talk = await new_talk(api)
    async with Client(url) as client:
        budget = await client.create_budget("session", talk.id, "tokens", 100)
        said = await perdure("chat", talk.id, url=url, given=script({"text": "Done."}) + "\n")
        assert said.status == 1
        top_up = f"perdure budgets top-up {budget.id} AMOUNT"
        assert top_up in said.err
        assert (await talk.read())["status"] == "paused"
        shown = await perdure("sessions", "show", talk.id, url=url)
        assert budget.id in shown.out
        refused = await perdure("sessions", "resume", talk.id, url=url)
        assert (refused.status, budget.id in refused.err) == (1, True)
        inbox = await perdure("inbox", "list", "--kind", "budget", url=url)
        assert talk.id in inbox.out
        (item,) = [line.split("\t")[0] for line in inbox.out.splitlines() if talk.id in line]
        approved = await perdure("inbox", "approve", item, url=url)
        assert (approved.status, budget.id in approved.err) == (1, True)
        assert (await perdure("budgets", "set", budget.id, "--limit", "1000000", url=url)).status == 0
        assert (await talk.logged_until("session.idled"))[-1]["type"] == "session.idled"


async def test_a_run_without_money_says_how_to_go_on(shared_server: Server, api: httpx.AsyncClient) -> None:
    name = fresh("frugal")
    agent = await post(api, "/v1/agents", {"name": name, "system_prompt": "Be brief."})
    async with Client(shared_server.url) as client:
        budget = await client.create_budget("agent", agent["id"], "tokens", 100)
        said = await perdure("run", "Hello", "--agent", name, url=shared_server.url)
        assert (said.status, said.out) == (3, "")
        assert f"{budget.id} has 100 tokens of 100 tokens left" in said.err
        assert f"perdure budgets top-up {budget.id} AMOUNT" in said.err
        assert "perdure chat" not in said.err
