"""`perdure inbox` and `perdure providers` within this process."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from perdure.cli import inbox
from perdure.cli.main import app
from perdure.client import Client, TurnWaits
from perdure.domain.ids import new_id
from perdure.domain.tools import CapabilityRef
from tests.command import script
from tests.journeys.linked import CAREFUL, deletion
from tests.journeys.test_questions import COLOUR, WHY, asking
from tests.server import Server
from tests.typed import CTRL_C, Display, Keyboard, reach


def run(server: Server, *arguments: str, given: str = "", status: int = 0) -> tuple[str, str]:
    """Run the command; its output, and what it wrote to standard error."""
    done = CliRunner().invoke(app, [*arguments, "--url", server.url], input=given)
    assert done.exit_code == status, (done.output, done.exception)
    return done.stdout, done.stderr or str(done.exception)


def item_of(server: Server, turn: str, capabilities: tuple[CapabilityRef, ...] = ()) -> str:
    """Have a session wait for a person; the id of its item in the inbox."""

    async def wait(client: Client) -> str:
        session = await client.create_session(capabilities=capabilities)
        with pytest.raises(TurnWaits):
            await client.ask(session.id, turn)
        (item,) = (await client.list_inbox(session_id=session.id)).data
        return item.id

    return str(reach(server, wait))


def question(server: Server) -> str:
    return item_of(server, script(asking(COLOUR, WHY), {"text": "Thank you."}))


def approval(server: Server) -> str:
    (given,) = CAREFUL["capabilities"]
    careful = CapabilityRef(given["ref"], given["config"])
    return item_of(server, script({"tool_calls": [deletion()]}, {"text": "Done."}), (careful,))


def outcome_of(server: Server, item: str) -> Any:
    """The outcome of an item."""
    return reach(server, lambda client: client.get_inbox_item(item)).outcome


# --- the inbox --------------------------------------------------------------------


def test_answers_come_from_options_lines_and_refusals(sqlite_server: Server) -> None:
    first, second = question(sqlite_server), question(sqlite_server)
    out, asked = run(sqlite_server, "inbox", "answer", first, "-a", "why=Just so.", given="2\n")
    assert (out, "? Which colour?" in asked, "? Why?" in asked) == (f"answered {first}\n", True, False)
    out, asked = run(sqlite_server, "inbox", "answer", second, "--decline")
    assert (out, "?" in asked) == (f"answered {second}\n", False)
    assert {outcome_of(sqlite_server, each).status for each in (first, second)} == {"decided"}
    _, late = run(sqlite_server, "inbox", "answer", first, "--decline", status=1)
    assert "already" in late


def test_an_approval_asks_no_questions_and_a_question_has_no_arguments(sqlite_server: Server) -> None:
    asks, waits = question(sqlite_server), approval(sqlite_server)
    _, said = run(sqlite_server, "inbox", "answer", waits, status=1)
    assert f"{waits} asks no questions" in said
    _, said = run(sqlite_server, "inbox", "approve", asks, "--edit", status=1)
    assert f"{asks} is no approval that waits" in said
    assert [outcome_of(sqlite_server, each) for each in (asks, waits)] == [None, None]


@pytest.mark.parametrize("key", [[CTRL_C], []], ids=["C-c", "C-d"])
def test_leaving_the_questions_answers_none(
    sqlite_server: Server, monkeypatch: pytest.MonkeyPatch, key: list[str]
) -> None:
    item = question(sqlite_server)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "stdin", Keyboard(*key))
    monkeypatch.setattr(sys, "stdout", shown := Display())
    with pytest.raises(typer.Exit) as left:
        inbox.answer(item, ["why=So."], url=sqlite_server.url, token=None, org=None)
    assert left.value.exit_code == 130
    assert "1. red" in shown.getvalue()
    assert outcome_of(sqlite_server, item) is None


# --- providers --------------------------------------------------------------------


def test_the_simulated_provider_is_added_with_its_model(sqlite_server: Server) -> None:
    name = new_id("provider")
    out, _ = run(sqlite_server, "providers", "add", name, "--type", "llmsim")
    assert "models: llmsim\n" in out
    assert out.endswith("Talk to it: perdure chat --model llmsim\n")
    provider = out.split()[1]
    run(sqlite_server, "models", "add", provider, "other")
    again, _ = run(sqlite_server, "providers", "add", f"{name}2", "--type", "llmsim", "--json")
    added = json.loads(again)
    assert (added["name"], added["provider_type"]) == (f"{name}2", "llmsim")
    listed, _ = run(sqlite_server, "providers", "list", "--json")
    assert added["id"] in [json.loads(line)["id"] for line in listed.splitlines()]


def test_what_a_provider_cannot_be_is_explained(sqlite_server: Server) -> None:
    _, said = run(sqlite_server, "providers", "add", "mine", "--type", "no_such", status=2)
    assert "'no_such' is not a provider type: choose one of" in " ".join(said.split())
    place = ("--base-url", "not an address", "--no-key")
    _, said = run(sqlite_server, "providers", "add", "mine", *place, status=1)
    assert "base_url" in said


def test_a_stored_provider_is_checked_with_what_is_stored(sqlite_server: Server) -> None:
    name = new_id("provider")
    run(sqlite_server, "providers", "add", name, "--type", "llmsim")
    out, _ = run(sqlite_server, "providers", "check", name)
    assert out.startswith("ok: ")
    out, _ = run(sqlite_server, "providers", "check", name, "--json")
    assert json.loads(out)["ok"] is True
    _, said = run(sqlite_server, "providers", "check", name, "--base-url", "http://x", status=2)
    assert "checked with its own address" in " ".join(said.split())
    _, said = run(sqlite_server, "providers", "check", name, "--type", "llmsim", status=2)
    assert "either a provider or --type" in " ".join(said.split())
    out, _ = run(
        sqlite_server, "providers", "check", "--type", "openai_completions", "--base-url",
        "http://127.0.0.1:1/v1", "--key-stdin", given="sk-none\n", status=1,
    )  # fmt: skip
    assert out.startswith("failed: ")


def test_of_two_providers_with_one_name_the_id_is_wanted(sqlite_server: Server) -> None:
    name = new_id("provider")
    for _ in range(2):
        reach(sqlite_server, lambda client: client.create_provider(name=name, provider_type="llmsim"))
    _, said = run(sqlite_server, "providers", "check", name, status=1)
    assert f"2 providers are called {name!r}; give one of the ids" in said
