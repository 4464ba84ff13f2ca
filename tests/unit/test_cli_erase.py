"""`perdure retention` and `perdure erase`: what they send, and what they print of the answers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from perdure.cli import erase, retention
from perdure.domain.ids import new_id
from perdure.domain.retention import RETENTION_KINDS
from tests.unit.fake_server import FakeServer, Reply, Request
from tests.unit.test_cli_limits import NOW, ORG, WHO

SESSION, USER, ERASURE = new_id("session"), new_id("user"), new_id("erasure")
NOTHING = dict.fromkeys(RETENTION_KINDS)
KEPT = {
    "set": {**NOTHING, "idle_sessions": 30},
    "holds": {**NOTHING, "idle_sessions": 30, "model_calls": 730},
    "fixed": [],
    "deleted": [{"day": "2026-03-14", "kind": "idle_sessions", "deleted": 1200}],
}
RECEIPT = {
    "id": ERASURE, "organization_id": ORG, "kind": "session", "subject_id": SESSION, "requested_by": USER,
    "status": "finished", "stage": "finished", "created_at": NOW, "updated_at": NOW,
    "erased": [{"kind": "events", "items": 2000, "bytes": 3}],
    "remains": [
        {"kind": "model_calls", "reason": "no content", "items": 7}, {"kind": "backups", "reason": "wait"},
    ],
}  # fmt: skip
APPS = {"retention": retention.app, "erase": erase.app}


async def run(answers: list[Any], group: str, *arguments: str) -> tuple[Result, list[Request]]:
    """Run a command; the server gives these answers in turn, and the last one from then on."""
    left = list(answers)

    async def handle(request: Request, reply: Reply) -> None:
        if request.path == "/v1/auth/me":
            await reply.json(200, WHO)
        else:
            await reply.json(200, left.pop(0) if len(left) > 1 else left[0])

    async with FakeServer(handle) as server:
        command = [*arguments, "--url", server.url]
        result = await asyncio.to_thread(CliRunner().invoke, APPS[group], command)
    return result, [each for each in server.requests if each.path != "/v1/auth/me"]


async def test_retention_is_shown_with_what_was_deleted() -> None:
    result, (request,) = await run([KEPT], "retention", "show")
    assert (request.method, request.path) == ("GET", f"/v1/orgs/{ORG}/retention")
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert lines[:2] == [["KIND", "KEPT", "BY"], ["idle_sessions", "30 days", "set here"]]
    assert ["model_calls", "730 days", "server"] in lines
    assert ["images", "for ever", "server"] in lines
    assert lines[-1] == ["2026-03-14: deleted 1,200 idle_sessions"]


async def test_retention_is_set_and_previewed_by_kind() -> None:
    values = ("idle_sessions=0", "model_calls=server")
    result, (request,) = await run([KEPT], "retention", "set", *values, "--json", "--yes")
    assert result.exit_code == 0
    assert (request.method, request.json()) == ("PATCH", {"idle_sessions": 0, "model_calls": None})
    assert json.loads(result.stdout)["set"]["idle_sessions"] == 30
    found = {"kinds": [{"kind": "images", "days": 3, "items": 5, "oldest_at": NOW}]}
    result, (request,) = await run([found], "retention", "preview", "images=3")
    assert (request.path, request.json()) == (f"/v1/orgs/{ORG}/retention/preview", {"images": 3})
    assert result.stdout.splitlines()[-1].split("\t") == ["images", "3", "5", NOW]
    result, (request,) = await run([{"kinds": []}], "retention", "preview")
    assert (request.json(), result.stdout) == ({}, "everything is kept for ever\n")


async def test_what_would_delete_something_needs_a_yes_and_what_would_not_does_not() -> None:
    found = [{"kind": "images", "days": 3, "items": 5, "oldest_at": NOW}]
    other = {"kind": "model_calls", "days": 730, "items": 9, "oldest_at": NOW}
    result, (request,) = await run([{"kinds": [*found, other]}], "retention", "set", "images=3")
    assert (result.exit_code, request.path) == (2, f"/v1/orgs/{ORG}/retention/preview")
    assert f"images\t3\t5\t{NOW}" in result.stderr
    assert "model_calls" not in result.stderr
    none = [{**found[0], "items": 0, "oldest_at": None}, other]
    result, requests = await run([{"kinds": none}, KEPT], "retention", "set", "images=3")
    assert (result.exit_code, requests[-1].method) == (0, "PATCH")


@pytest.mark.parametrize(
    "wrong", ["images=3 images=4", "sessions=3", "images=x", "images", "images=-1", "images=40000"]
)
async def test_what_is_no_number_of_days_is_refused_before_anything_is_sent(wrong: str) -> None:
    result, requests = await run([KEPT], "retention", "set", *wrong.split())
    assert (result.exit_code, requests) == (2, [])


async def test_an_erasure_is_waited_for_and_its_receipt_printed() -> None:
    running = {**RECEIPT, "status": "running", "stage": "index"}
    result, requests = await run([running, running, RECEIPT], "erase", "session", SESSION, "--yes")
    assert result.exit_code == 0, result.output
    assert [(each.method, each.path) for each in requests] == [
        ("POST", "/v1/erasures"),
        ("GET", f"/v1/erasures/{ERASURE}"),
        ("GET", f"/v1/erasures/{ERASURE}"),
    ]
    assert requests[0].json() == {"session_id": SESSION}
    lines = result.stdout.splitlines()
    assert lines[0] == f"{ERASURE}: finished, {SESSION}"
    assert "events\t2,000\t3" in lines
    assert lines[-2:] == ["remains: model_calls (7): no content", "remains: backups: wait"]


async def test_a_user_is_erased_without_waiting_and_asked_for_first() -> None:
    running = {**RECEIPT, "status": "running", "stage": "index"}
    result, (request,) = await run([running], "erase", "user", USER, "--yes", "--no-wait")
    assert request.json() == {"user_id": USER}
    assert "at work on: index" in result.stdout
    result, requests = await run([running], "erase", "user", USER)
    assert (result.exit_code, requests) == (2, [])


async def test_a_user_is_named_by_an_e_mail_address() -> None:
    running = {**RECEIPT, "status": "running", "stage": "index"}
    user = {"id": USER, "name": "Bob", "email": "Bob@example.com", "roles": ["member"], "created_at": NOW}
    options = ("--yes", "--no-wait")
    result, requests = await run([{"data": [user]}, running], "erase", "user", "bob@EXAMPLE.com", *options)
    assert result.exit_code == 0, result.output
    assert requests[0].query == {"search": ["bob@EXAMPLE.com"]}
    assert requests[1].json() == {"user_id": USER}
    result, (request,) = await run([{"data": [user]}], "erase", "user", "ob@example.com", *options)
    assert (request.path, result.exit_code) == ("/v1/users", 1)
    assert "GET /v1/users" in str(result.exception)
    result, (request,) = await run([running], "erase", "user", WHO["email"], *options)
    assert request.json() == {"user_id": WHO["id"]}


async def test_erasures_are_listed_and_sessions_held() -> None:
    page = {"data": [RECEIPT], "total": 1, "offset": 0, "limit": 20}
    result, _ = await run([page], "erase", "list")
    assert result.stdout.splitlines()[-1].split("\t") == [ERASURE, SESSION, "finished", NOW]
    result, _ = await run([RECEIPT], "erase", "show", ERASURE, "--json")
    assert json.loads(result.stdout)["erased"][0]["items"] == 2000
