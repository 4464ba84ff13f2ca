"""Webhooks whose receivers are many, slow or changed while something is on its way. On both databases."""

from __future__ import annotations

import asyncio

from aiohttp import web
from msgspec.structs import replace

from perdure.app.accounts import create_organization
from perdure.app.context import Services
from perdure.app.purges import PURGES
from perdure.app.sessions import create_session
from perdure.app.webhook_deliveries import Attempt, look_due, note_reply, take_attempt
from perdure.app.webhooks import change_webhook, create_webhook, deliveries_of, read_webhook
from perdure.domain.accounts import Caller, CreateOrganization
from perdure.domain.sessions import CreateSession
from perdure.domain.webhooks import KEPT, CreateTaskWebhook, UpdateTaskWebhook
from perdure.net.webhook_http import Reply
from perdure.worker.webhooks import AT_ONCE
from tests.hooks import SECRET, Office, Receiver, hook, receiving, rows


async def purge(app: Services) -> None:
    """Remove old deliveries, as the worker does."""
    (deliveries,) = [each for each in PURGES if each.kind == "webhook_deliveries"]
    while (await app.database.write(lambda tx: deliveries.batch(tx, app.now()))).more:
        pass


async def another_organization(office: Office) -> Office:
    """Another organization on the same server, whose events the same process sends."""
    made = await create_organization(office.app, office.owner, CreateOrganization("Other"))
    owner = Caller(made.id, office.owner.user_id, "owner")
    session = await create_session(office.app, owner, CreateSession())
    other = Office(office.app, owner, office.clock, session.id)
    other.deliverer = office.deliverer
    return other


async def attempts(office: Office, count: int) -> list[Attempt]:
    """Attempts that are under way, for events of so many sessions."""
    for _ in range(count):
        await office.change(await office.begin(await office.another_session()), "succeeded")
    made = [await take_attempt(office.app, line) for line in await look_due(office.app, (), count)]
    return [each for each in made if each is not None]


async def test_receivers_that_hang_hold_up_no_other_organization(office: Office, receiver: Receiver) -> None:
    for number in range(AT_ONCE + 1):
        await hook(office, receiver, f"/{number}")
    await office.change(await office.begin(), "succeeded")
    receiver.open.clear()
    other = await another_organization(office)
    async with receiving() as quick:
        assert await office.deliverer.once() == AT_ONCE // 2
        await create_webhook(office.app, other.owner, CreateTaskWebhook(quick.url(), SECRET))
        await other.change(await other.begin(), "succeeded")
        assert await office.deliverer.once() == 1
        await quick.until(1)
        receiver.open.set()
        await office.deliverer.settled()
    await office.send()
    assert len(receiver.came) == AT_ONCE + 1


async def test_what_a_former_receiver_answers_says_nothing_about_the_new_one(
    office: Office, receiver: Receiver
) -> None:
    made = await hook(office, receiver, "/old")
    await office.change(await office.begin(), "succeeded")
    receiver.open.clear()
    receiver.answer = lambda came: web.Response(status=410 if came.path == "/old" else 204)
    await office.deliverer.once()
    await receiver.until(1)
    await change_webhook(office.app, office.owner, made.id, UpdateTaskWebhook(receiver.url("/new")))
    receiver.open.set()
    await office.deliverer.settled()
    now = await read_webhook(office.app, office.owner, made.id)
    assert (now.enabled, now.disabled_reason, now.last_error) == (True, None, None)
    office.clock.move(60_000_000)
    assert await office.send() == 1
    (delivery,) = await deliveries_of(office.app, office.owner, made.id)
    assert (delivery.state, delivery.attempts) == ("delivered", 2)


async def test_a_new_url_has_not_failed_yet_and_hears_at_once_what_waits(
    office: Office, receiver: Receiver
) -> None:
    made = await hook(office, receiver)
    receiver.answer = lambda came: web.Response(status=500)
    await office.change(await office.begin(), "succeeded")
    await office.send()
    same = await change_webhook(office.app, office.owner, made.id, UpdateTaskWebhook(made.url))
    assert same.last_error is not None
    assert await office.send() == 0
    receiver.answer = lambda came: web.Response(status=204)
    new = await change_webhook(office.app, office.owner, made.id, UpdateTaskWebhook(receiver.url("/new")))
    assert new.last_error is None
    assert await rows(office, "SELECT failures, failing_since FROM webhooks") == [(0, None)]
    assert await office.send() == 1
    assert [each.path for each in receiver.came] == ["/hook", "/new"]


async def test_what_waited_for_its_next_attempt_is_sent_once_the_webhook_is_enabled(
    office: Office, receiver: Receiver
) -> None:
    made = await hook(office, receiver)
    receiver.answer = lambda came: web.Response(status=503, headers={"retry-after": "80000"})
    await office.change(await office.begin(), "succeeded")
    assert await office.send() == 1
    receiver.answer = lambda came: web.Response(status=204)
    for enabled in (False, True):
        await change_webhook(office.app, office.owner, made.id, UpdateTaskWebhook(enabled=enabled))
        assert await office.send() == int(enabled)


async def test_failures_at_the_same_time_are_all_counted(office: Office, receiver: Receiver) -> None:
    await hook(office, receiver)
    made = await attempts(office, 4)
    await asyncio.gather(*(note_reply(office.app, each, Reply(500, "no")) for each in made))
    assert await rows(office, "SELECT failures FROM webhooks") == [(4,)]


async def test_a_webhook_that_is_enabled_while_an_attempt_ends_keeps_nothing_waiting(
    office: Office, receiver: Receiver
) -> None:
    made = await hook(office, receiver)
    for enabled in (True, True, False):
        under_way = await attempts(office, 3)
        await change_webhook(office.app, office.owner, made.id, UpdateTaskWebhook(enabled=False))
        await asyncio.gather(
            *(note_reply(office.app, each, Reply(500, "no")) for each in under_way),
            change_webhook(office.app, office.owner, made.id, UpdateTaskWebhook(enabled=enabled)),
        )
        waiting = await rows(office, "SELECT COUNT(*) FROM webhook_lines WHERE due_at IS NULL")
        assert (waiting[0][0] > 0) is not enabled
        await change_webhook(office.app, office.owner, made.id, UpdateTaskWebhook(enabled=True))


async def test_lines_of_a_disabled_webhook_go_with_their_deliveries(
    office: Office, receiver: Receiver
) -> None:
    made = await hook(office, receiver)
    await office.change(await office.begin(), "succeeded")
    await change_webhook(office.app, office.owner, made.id, UpdateTaskWebhook(enabled=False))
    assert await office.send() == 0
    await purge(office.app)
    assert len(await rows(office, "SELECT * FROM webhook_lines")) == 1
    office.clock.move(KEPT + 1_000_000)
    await purge(office.app)
    assert await rows(office, "SELECT * FROM webhook_lines") == []
    kept = replace(made, secret=None, updated_at="")
    assert replace(await read_webhook(office.app, office.owner, made.id), updated_at="", enabled=True) == kept
