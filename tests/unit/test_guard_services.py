"""Checks that a service makes: what its answers mean, and what counts if there is none."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from perdure.app.accounts import bootstrap
from perdure.app.models import create_model
from perdure.app.providers import create_provider
from perdure.capabilities.guard_services import MAX_ANSWER, MAX_SENT, Asker, Checked, GuardServices
from perdure.domain.accounts import Caller
from perdure.domain.errors import ModelError
from perdure.domain.guardrail_checks import GuardrailsConfig, JudgeCheck, ModerationCheck
from perdure.domain.guardrails import Remote
from perdure.domain.messages import Usage
from perdure.domain.providers import CreateModel, CreateProvider
from perdure.llm.driver import DeltaKind, Driver, ModelRequest, OnDelta
from perdure.llm.simulated import SimulatedDriver
from perdure.settings import Settings
from perdure.store.database import Tx
from perdure.store.providers import UsableModel, usable_model
from perdure.wiring import Parts, open_parts
from tests.sites import Site
from tests.talk import Json


class Paid:
    """A payment of a call, which notes what it is told."""

    output = 50

    def __init__(self) -> None:
        self.sent = 0
        self.received = ""
        self.ended: list[tuple[Usage | None, bool]] = []

    def send(self) -> None:
        self.sent += 1

    def receive(self, kind: DeltaKind, text: str) -> None:
        self.received += text

    def end(self, usage: Usage | None, *, refused: bool = False) -> None:
        self.ended.append((usage, refused))


class Office:
    """An organization with a model that judges."""

    def __init__(self, parts: Parts, owner: Caller) -> None:
        self.parts, self.owner, self.org = parts, owner, owner.organization_id
        self.driver: Any = SimulatedDriver([{"text": "ALLOW"}])
        app = parts.app
        assert app.guard is not None
        configs = app.guard._configs
        self.services = GuardServices(
            app.database,
            app.vault,
            lambda row, secrets: self.driver,
            configs,
            catalog=app.catalog,
            private=True,
        )

    async def check(self, text: str = "A crow.", *, pay: Any = None, **check: Any) -> Checked:
        found = msgspec.convert(
            {"checks": [{"id": "c", "stage": "output", **check}]}, GuardrailsConfig
        ).checks[0]
        assert isinstance(found, JudgeCheck | ModerationCheck)
        asker = Asker(partial(own_model, org_id=self.org), pay=pay)
        return await self.services.check(self.org, (Remote(0, "c", found),), "output", text, asker)

    async def judge(self, *steps: Json, **more: Any) -> Checked:
        self.driver = SimulatedDriver(list(steps))
        return await self.check(type="judge", policy="No birds.", **more)

    async def provider(self, **fields: Any) -> str:
        body = msgspec.convert({"name": "P", **fields}, CreateProvider)
        return (await create_provider(self.parts.app, self.owner, body)).id


async def own_model(tx: Tx, org_id: Any) -> UsableModel | None:
    found = await usable_model(tx, org_id, None)
    return None if found is None else found[0]


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    async with open_parts(Settings(data=str(tmp_path), private_addresses=True)) as parts:
        owner = await bootstrap(parts.app)
        provider = await create_provider(parts.app, owner, CreateProvider("Simulated", "llmsim"))
        await create_model(parts.app, owner, provider.id, CreateModel("simulated", "Simulated"))
        yield Office(parts, owner)


def hits(checked: Checked) -> list[tuple[str, str]]:
    return [(hit.action, hit.reason_code) for hit in checked.hits]


NOT_CHECKED = [("block", "not_checked")]

# --- models that judge ---------------------------------------------------------


async def test_one_word_is_a_verdict(office: Office) -> None:
    for said in ("BLOCK", " *block*.", "`Allow`", "'ALLOW'"):
        checked = await office.judge({"text": said})
        assert hits(checked) == ([("block", "judge_match")] if "block" in said.lower() else []), said
        (call,) = checked.calls
        assert (call.metadata.check_id, call.metadata.model, call.output.text) == ("c", "simulated", None)
    (request,) = office.driver.requests
    assert "No birds." in request.system
    assert "A crow." in str(request.messages[0].content)


async def test_no_verdict_blocks_or_is_noted_as_the_check_says(office: Office) -> None:
    checked = await office.judge({"text": "I do not know."})
    assert hits(checked) == NOT_CHECKED
    assert len(checked.calls) == 1, "the call is in the log all the same"
    checked = await office.judge({"text": "Hm."}, on_failure="allow", action="replace", replacement="x")
    assert hits(checked) == [("log", "not_checked")]
    assert checked.hits[0].replacement is None


async def test_a_model_that_does_not_answer_is_no_verdict(office: Office) -> None:
    assert hits(await office.judge({"fail": {"code": "provider_unavailable"}})) == NOT_CHECKED
    assert hits(await office.judge({"text": "ALLOW", "first_ms": 60_000}, timeout=0.1)) == NOT_CHECKED
    assert hits(await office.judge({"text": "ALLOW"}, model_id="model_that_is_not_there")) == NOT_CHECKED
    long = await office.judge({"text": "ALLOW"}, text="x" * (MAX_SENT + 1))
    assert (hits(long), office.driver.requests) == (NOT_CHECKED, [])


class Broken:
    """A driver with an error of its own."""

    async def generate(self, request: ModelRequest, on_delta: OnDelta) -> Any:
        raise ZeroDivisionError("A crow.")


async def test_an_error_of_a_driver_does_not_end_the_turn_or_show_the_text(
    office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    office.driver = Broken()
    assert hits(await office.check(type="judge", policy="No birds.")) == NOT_CHECKED
    assert "ZeroDivisionError" in caplog.text
    assert "crow" not in caplog.text


# --- who pays ------------------------------------------------------------------


class Strict:
    """A model server that does not know the limit of an answer, and says so."""

    def __init__(self, said: str, knows: frozenset[str]) -> None:
        self.said, self.knows = said, knows
        self.left_out: list[frozenset[str]] = []
        self.model = SimulatedDriver([{"text": "ALLOW"}])

    def optional(self, request: ModelRequest) -> frozenset[str]:
        return self.knows

    async def generate(self, request: ModelRequest, on_delta: OnDelta) -> Any:
        self.left_out.append(request.left_out)
        if not request.left_out:
            raise ModelError(self.said, code="invalid_model_request", status=400)
        return await self.model.generate(request, on_delta)


async def test_a_call_that_is_paid_asks_for_no_more_than_was_held_and_is_settled(office: Office) -> None:
    paid, asked = Paid(), []

    async def pay(model: UsableModel, driver: Driver, prompt: int) -> Paid:
        asked.append((model.model.model_id, prompt > 0))
        return paid

    assert hits(await office.judge({"text": "BLOCK"}, pay=pay)) == [("block", "judge_match")]
    assert asked == [("simulated", True)]
    assert office.driver.requests[0].max_output_tokens == 50
    (settled,) = paid.ended
    assert settled[0] is not None
    assert (settled[1], paid.sent, paid.received) == (False, 1, "BLOCK")


async def test_a_call_that_fails_is_settled_too(office: Office) -> None:
    paid = Paid()

    async def pay(model: UsableModel, driver: Driver, prompt: int) -> Paid:
        return paid

    assert hits(await office.judge({"fail": {"code": "provider_auth"}}, pay=pay)) == NOT_CHECKED
    assert paid.ended == [(None, True)]


REFUSALS = [
    ("Unsupported parameter: 'max_tokens'", frozenset({"max_tokens", "store"}), True),
    ("Unsupported parameter: 'store'", frozenset({"max_tokens", "store"}), False),
    ("Unsupported parameter: 'max_tokens'", frozenset(), False),
]


async def test_a_server_that_refuses_the_limit_is_asked_without_it(office: Office) -> None:
    for said, knows, again in REFUSALS:
        paid, office.driver = Paid(), Strict(said, knows)

        async def pay(model: UsableModel, driver: Driver, prompt: int, paid: Paid = paid) -> Paid:
            return paid

        checked = await office.check(type="judge", policy="No birds.", pay=pay)
        assert hits(checked) == ([] if again else NOT_CHECKED)
        assert office.driver.left_out == [frozenset(), frozenset({"max_tokens"})][: 1 + again]
        assert [refused for _, refused in paid.ended] == [not again]


# --- moderation endpoints ------------------------------------------------------


def moderation(**result: Any) -> web.Response:
    return web.Response(body=json.dumps({"results": [result]}).encode())


SCORES = {"hate": 0.9, "spam": 0.2}


MODERATIONS: list[tuple[Json, Json, bool]] = [
    ({"flagged": True}, {}, True),
    ({"categories": {"hate": True}}, {}, True),
    ({"categories": {"hate": False}}, {}, False),
    ({"flagged": True, "categories": {"hate": True}}, {"categories": ["spam"]}, False),
    ({"categories": {"hate": True}}, {"categories": ["hate"]}, True),
    ({"category_scores": SCORES}, {"threshold": 0.5}, True),
    ({"category_scores": SCORES}, {"threshold": 0.95}, False),
    ({"category_scores": SCORES}, {"threshold": 0.5, "categories": ["spam"]}, False),
]


async def test_what_a_moderation_flags_counts_as_the_check_says(office: Office, site: Site) -> None:
    for result, check, flags in MODERATIONS:
        site.answers["/m"] = moderation(**result)
        checked = await office.check(type="moderation", url=site.url("/m"), **check)
        assert hits(checked) == ([("block", "moderation_match")] if flags else []), (result, check)


async def test_an_answer_that_is_no_moderation_is_no_check(
    office: Office, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    for answer, why in (
        (web.Response(status=500), "answered 500"),
        (web.Response(status=302, headers={"Location": "/m"}), "answered 302"),
        (web.Response(body=b"<html>"), "not a moderation"),
        (web.Response(body=b'{"results": []}'), "not a moderation"),
        (web.Response(body=b" " * (MAX_ANSWER + 1)), "too long"),
    ):
        site.answers["/m"] = answer
        caplog.clear()
        assert hits(await office.check(type="moderation", url=site.url("/m"))) == NOT_CHECKED
        assert why in caplog.text
    assert len(site.asked) == 5


async def test_an_endpoint_that_may_not_be_reached_or_is_not_there_is_no_check(
    office: Office, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    async def drop(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    site.answers["/m"] = drop
    assert hits(await office.check(type="moderation", url=site.url("/m"))) == NOT_CHECKED
    asked = len(site.asked)
    strict = GuardServices(
        office.parts.app.database,
        office.parts.app.vault,
        lambda row, secrets: office.driver,
        office.services._configs,
        catalog=office.parts.app.catalog,
    )
    office.services = strict
    assert hits(await office.check(type="moderation", url=site.url("/m"))) == NOT_CHECKED
    assert len(site.asked) == asked
    assert "not a public host" in caplog.text


async def test_a_provider_lends_its_address_and_its_key(office: Office, site: Site) -> None:
    seen: list[tuple[str | None, Json]] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.headers.get("Authorization"), json.loads(await request.read())))
        return moderation(flagged=False)

    site.answers["/v1/moderations"] = answer
    provider = await office.provider(provider_type="openai", base_url=site.url("/v1"), api_key="sk-1")
    assert hits(await office.check(type="moderation", provider_id=provider, model="m")) == []
    assert seen == [("Bearer sk-1", {"input": "A crow.", "model": "m"})]


async def test_a_provider_without_moderations_is_no_check(
    office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    provider = await office.provider(provider_type="anthropic", api_key="sk-1")
    assert hits(await office.check(type="moderation", provider_id=provider)) == NOT_CHECKED
    assert "has no moderation endpoint" in caplog.text


async def test_long_searches_of_one_organization_take_turns(office: Office) -> None:
    assert await office.services.search(office.org, lambda: 7) == 7
    assert await office.services.search(office.org, lambda: 8) == 8
