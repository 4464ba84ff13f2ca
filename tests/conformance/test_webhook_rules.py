"""What is kept of webhooks, and for how long; what is refused. On both databases."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from msgspec.structs import replace

from perdure.app.push_configs import all_push_configs, create_push_config
from perdure.app.session_ends import carry_out, delete_session
from perdure.app.webhook_deliveries import look_due, take_attempt
from perdure.app.webhooks import (
    all_webhooks,
    change_webhook,
    create_webhook,
    delete_webhook,
    deliveries_of,
    read_webhook,
    send_test,
)
from perdure.domain.errors import Conflict, InvalidInput, NotFound
from perdure.domain.ids import OrgId, WebhookId, new_id
from perdure.domain.webhooks import (
    KEPT,
    MAX_PUSH_CONFIGS,
    MAX_WEBHOOKS,
    CreatePushConfig,
    CreateTaskWebhook,
    UpdateTaskWebhook,
)
from perdure.engine.context import SystemClock
from perdure.store.session_deletion import purge_deleted
from perdure.store.tasks import purge_tasks, wished_tasks
from perdure.worker.retention import RetentionSweep
from perdure.worker.webhooks import Deliverer
from tests.conformance.places import PATIENCE, eventually
from tests.hooks import HOUR, SECRET, Office, Receiver, hook, nothing_left, rows, told

# --- ends -----------------------------------------------------------------------


async def test_what_is_deleted_hears_nothing_more(office: Office, receiver: Receiver) -> None:
    made = await hook(office, receiver)
    await office.change(await office.begin(), "succeeded")
    (line,) = await look_due(office.app, (), 10)
    await delete_webhook(office.app, office.owner, made.id)
    await nothing_left(office)
    # An append that did not know of the deletion yet has noted a delivery.
    await office.database.write(
        lambda tx: tx.run(
            "INSERT INTO webhook_lines VALUES (?, ?, ?, ?, 0)",
            *(made.id, office.session_id, office.owner.organization_id, office.clock.now()),
        )
    )
    assert await take_attempt(office.app, replace(line, leased_until=0)) is None
    await nothing_left(office)
    assert receiver.came == []
    with pytest.raises(NotFound):
        await read_webhook(office.app, office.owner, made.id)


async def test_a_webhook_that_is_deleted_while_an_event_is_sent_leaves_nothing(
    office: Office, receiver: Receiver
) -> None:
    made = await hook(office, receiver)
    await office.change(await office.begin(), "succeeded")
    receiver.open.clear()
    await office.deliverer.once()
    await receiver.until(1)
    await delete_webhook(office.app, office.owner, made.id)
    receiver.open.set()
    await office.deliverer.settled()
    await nothing_left(office)


async def test_webhooks_of_a_task_go_with_its_session(office: Office, receiver: Receiver) -> None:
    task = await office.begin()
    body = CreatePushConfig(receiver.url(), SECRET)
    await create_push_config(office.app, office.owner, office.session_id, task, body)
    await office.change(task, "succeeded")
    await delete_session(office.app, office.owner, office.session_id)
    await nothing_left(office)
    for left in await office.database.read(lambda tx: wished_tasks(tx, 10)):
        await carry_out(office.app, left)


async def test_webhooks_of_a_task_go_with_the_task(office: Office, receiver: Receiver) -> None:
    task, other = await office.begin(), await office.begin()
    for each in (task, other):
        body = CreatePushConfig(receiver.url(), SECRET)
        await create_push_config(office.app, office.owner, office.session_id, each, body)
    await office.change(task, "succeeded")
    await office.send()
    await office.database.write(lambda tx: purge_tasks(tx, office.clock.now()))
    (left,) = await rows(office, "SELECT task_id FROM webhooks")
    assert left[0] == other
    assert await all_push_configs(office.app, office.owner, office.session_id, other)
    with pytest.raises(NotFound):
        await all_push_configs(office.app, office.owner, office.session_id, task)


async def test_an_event_whose_log_is_gone_has_failed_and_its_webhook_has_not(
    office: Office, receiver: Receiver
) -> None:
    made = await hook(office, receiver)
    await office.change(await office.begin(), "succeeded")
    await delete_session(office.app, office.owner, office.session_id)
    later = office.clock.time + HOUR
    while (await office.database.write(lambda tx: purge_deleted(tx, later, later + HOUR))).more:
        pass
    assert await office.send() == 1
    (delivery,) = await deliveries_of(office.app, office.owner, made.id)
    assert (delivery.state, delivery.attempts) == ("failed", 1)
    assert "its session was deleted" in (delivery.error or "")
    assert (await read_webhook(office.app, office.owner, made.id)).last_error is None
    assert receiver.came == []


async def test_deliveries_are_kept_for_a_week_and_fifty_of_them_are_listed(
    office: Office, receiver: Receiver
) -> None:
    made = await hook(office, receiver)
    for _ in range(51):
        await office.change(await office.begin(), "succeeded")
    await office.send()
    listed = await deliveries_of(office.app, office.owner, made.id)
    assert len(listed) == 50
    assert [each.sequence for each in listed] == sorted((each.sequence or 0 for each in listed), reverse=True)
    await RetentionSweep(office.app, SystemClock()).once()
    assert len(await rows(office, "SELECT id FROM webhook_deliveries")) == 51
    office.clock.move(KEPT)
    await RetentionSweep(office.app, SystemClock()).once()
    assert await deliveries_of(office.app, office.owner, made.id) == []


async def test_an_event_that_is_damaged_has_failed_and_a_damaged_filter_hears_everything(
    office: Office, receiver: Receiver
) -> None:
    task = await office.begin()
    body = CreatePushConfig(receiver.url(), SECRET, ("failed",))
    await create_push_config(office.app, office.owner, office.session_id, task, body)
    await office.database.write(lambda tx: tx.run("UPDATE webhooks SET wanted = '{'"))
    await office.change(task, "running")
    broken = await office.change(task, "running")
    await office.database.write(lambda tx: tx.run("UPDATE events SET data = '{' WHERE sequence = ?", broken))
    last = await office.change(task, "failed")
    await office.send()
    assert [each.sequence for each in receiver.came] == [broken - 1, last]
    states = await rows(office, "SELECT state FROM webhook_deliveries ORDER BY sequence")
    assert [row[0] for row in states] == ["delivered", "failed", "delivered"]


async def test_the_loop_sends_by_itself_and_outlives_what_fails(
    office: Office, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    made, other = await hook(office, receiver, "/broken"), await hook(office, receiver)
    running = asyncio.create_task(Deliverer(office.app, every=0.01).run())
    await office.database.write(lambda tx: tx.run("UPDATE webhooks SET secret = ?", b"?"))
    await office.change(await office.begin(), "succeeded")

    async def unsigned() -> bool:
        every = [await deliveries_of(office.app, office.owner, each.id) for each in (made, other)]
        return [told(each) for each in every] == [[("retrying", 1)]] * 2

    await eventually(unsigned)
    await office.database.write(lambda tx: tx.run("ALTER TABLE webhook_lines RENAME TO elsewhere"))
    async with asyncio.timeout(PATIENCE):
        while "cannot be sent to webhooks" not in caplog.text:
            await asyncio.sleep(0.01)
    await office.database.write(lambda tx: tx.run("ALTER TABLE elsewhere RENAME TO webhook_lines"))
    body = CreateTaskWebhook(receiver.url("/third"), SECRET)
    await create_webhook(office.app, office.owner, body)
    await office.change(await office.begin(), "succeeded")
    await receiver.until(1)
    running.cancel()
    assert {each.path for each in receiver.came} == {"/third"}


# --- rules ----------------------------------------------------------------------


async def test_a_test_is_sent_at_once_also_to_a_disabled_webhook_and_counts_for_nothing(
    office: Office, receiver: Receiver
) -> None:
    body = CreateTaskWebhook(receiver.url(), SECRET, enabled=False)
    made = await create_webhook(office.app, office.owner, body)
    done = await send_test(office.app, office.owner, made.id)
    assert (done.state, done.status_code, done.type, done.attempts) == ("delivered", 204, "webhook.test", 1)
    (received,) = receiver.came
    assert received.is_signed_with(SECRET)
    assert received.json["data"] == {
        "organization_id": office.owner.organization_id,
        "webhook_id": made.id,
    }
    receiver.answer = lambda received: web.Response(status=302, headers={"location": receiver.url("/else")})
    failed = await send_test(office.app, office.owner, made.id)
    assert (failed.state, failed.error) == (
        "failed",
        "the receiver answered 302 (redirects are not followed)",
    )
    assert len(receiver.came) == 2
    assert [each.id for each in await deliveries_of(office.app, office.owner, made.id)] == [
        failed.id,
        done.id,
    ]
    assert (await read_webhook(office.app, office.owner, made.id)).last_error is None
    with pytest.raises(NotFound):
        await send_test(office.app, office.owner, WebhookId(new_id("webhook")))


async def test_limits_hold_also_for_requests_at_the_same_time(office: Office, receiver: Receiver) -> None:
    body = CreateTaskWebhook(receiver.url(), SECRET)
    await asyncio.gather(*(create_webhook(office.app, office.owner, body) for _ in range(MAX_WEBHOOKS - 2)))
    asked = [create_webhook(office.app, office.owner, body) for _ in range(6)]
    results = await asyncio.gather(*asked, return_exceptions=True)
    refused = [each for each in results if isinstance(each, Conflict)]
    assert {each.code for each in refused} == {"too_many_webhooks"}
    assert len(await all_webhooks(office.app, office.owner)) == MAX_WEBHOOKS
    task = await office.begin()
    config = CreatePushConfig(receiver.url(), SECRET)
    place = (office.app, office.owner, office.session_id, task)
    more = [create_push_config(*place, config) for _ in range(MAX_PUSH_CONFIGS + 3)]
    results = await asyncio.gather(*more, return_exceptions=True)
    assert [each.code for each in results if isinstance(each, Conflict)] == ["too_many_push_configs"] * 3


async def test_a_task_that_has_ended_gets_no_webhook(office: Office, receiver: Receiver) -> None:
    task = await office.begin()
    await office.change(task, "succeeded")
    with pytest.raises(Conflict) as refused:
        await create_push_config(
            office.app, office.owner, office.session_id, task, CreatePushConfig(receiver.url())
        )
    assert refused.value.code == "task_ended"


async def test_what_cannot_work_is_refused_by_field(office: Office) -> None:
    local = "http://127.0.0.1:9999/"
    bad = {
        CreatePushConfig("ftp://example.com/"): "url",
        CreatePushConfig("http://me:word@example.com/"): "url",
        CreatePushConfig("http://169.254.169.254/"): "url",
        CreatePushConfig("http://127.0.0.1:22/"): "url",
        CreatePushConfig(local, "short"): "secret",
        CreatePushConfig(local, "whsec_###"): "secret",
        CreatePushConfig(local, None, ("running", "done")): "event_filter[1]",
    }
    task = await office.begin()
    for body, field in bad.items():
        with pytest.raises(InvalidInput) as refused:
            await create_push_config(office.app, office.owner, office.session_id, task, body)
        assert refused.value.field == field
    with pytest.raises(NotFound):
        await create_push_config(
            office.app, office.owner, office.session_id, new_id("task"), CreatePushConfig(local)
        )
    assert await rows(office, "SELECT * FROM webhooks") == []


async def test_organizations_hear_nothing_of_each_other(office: Office, receiver: Receiver) -> None:
    made = await hook(office, receiver)
    other = replace(office.owner, organization_id=OrgId(new_id("org")))
    for work in (read_webhook, delete_webhook, deliveries_of, send_test):
        with pytest.raises(NotFound):
            await work(office.app, other, made.id)  # type: ignore[operator]
    with pytest.raises(NotFound):
        await change_webhook(office.app, other, made.id, UpdateTaskWebhook(enabled=False))
    # Its hooks of the same kind hear nothing of this organization's tasks.
    await office.database.write(
        lambda tx: tx.run("UPDATE webhooks SET org_id = ? WHERE id = ?", other.organization_id, made.id)
    )
    await office.change(await office.begin(), "succeeded")
    assert await rows(office, "SELECT * FROM webhook_deliveries") == []
