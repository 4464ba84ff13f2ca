"""Events of tasks reach webhooks at least once, in order, whatever a receiver answers. On both databases."""

from __future__ import annotations

import asyncio

from aiohttp import web

from perdure.app.push_configs import create_push_config
from perdure.app.webhook_deliveries import LEASE, free_all, look_due, note_reply, take_attempt
from perdure.app.webhooks import (
    all_webhooks,
    change_webhook,
    create_webhook,
    deliveries_of,
    read_webhook,
)
from perdure.domain.events import (
    EventContext,
    InputMessageData,
    NewEvent,
    TaskMessageReceivedData,
    TaskMessageSentData,
)
from perdure.domain.ids import TaskId, new_id
from perdure.domain.messages import Message, TextPart
from perdure.domain.tasks import TaskMessage, TaskText
from perdure.domain.times import to_rfc3339
from perdure.domain.webhooks import (
    DISABLE_AFTER,
    DISABLE_FAILURES,
    GIVE_UP_AFTER,
    CreatePushConfig,
    CreateTaskWebhook,
    UpdateTaskWebhook,
)
from perdure.net.webhook_http import Reply
from perdure.store.database import Tx
from perdure.store.sessions import append, get_session
from perdure.worker.webhooks import AT_ONCE, OF_ONE, Deliverer
from tests.hooks import HOUR, SECRET, Office, Receiver, hook, receiving, rows, told

# --- what is sent ---------------------------------------------------------------


async def test_an_organization_hears_of_the_end_of_every_task_signed_and_whole(
    office: Office, receiver: Receiver
) -> None:
    made = await hook(office, receiver)
    task = await office.begin()
    sequence = await office.change(task, "running", "succeeded", summary="It is done.")
    assert await office.send() == 1
    (received,) = receiver.came
    assert received.is_signed_with(SECRET)
    assert not received.is_signed_with("whsec_" + "A" * 32)
    assert received.headers["content-type"] == "application/json"
    assert received.json["type"] == "task.updated"
    data = received.json["data"]
    assert data["task"]["summary"] == "It is done."
    assert (data["session_id"], data["task_id"], data["sequence"], data["organization_id"]) == (
        office.session_id,
        task,
        sequence,
        office.owner.organization_id,
    )
    (delivery,) = await deliveries_of(office.app, office.owner, made.id)
    assert (delivery.id, delivery.state, delivery.attempts, delivery.status_code) == (
        received.id,
        "delivered",
        1,
        204,
    )
    assert await rows(office, "SELECT * FROM webhook_lines") == []


async def test_a_task_tells_what_its_filter_names(office: Office, receiver: Receiver) -> None:
    task, other = await office.begin(), await office.begin()
    wanted = {
        "/all": None,
        "/states": ("running", "failed"),
        "/types": ("task.message.sent",),
        "/mixed": ("task.message.received", "canceled"),
    }
    for path, names in wanted.items():
        body = CreatePushConfig(receiver.url(path), SECRET, names)
        await create_push_config(office.app, office.owner, office.session_id, task, body)
    await office.change(task, "running")
    await messages(office, task)
    await office.change(other, "failed")
    await office.change(task, "failed")
    await office.send()
    heard = {path: [each for each in receiver.came if each.path == path] for path in wanted}
    types = ["task.updated", "task.message.sent", "task.message.received", "task.updated"]
    assert [each.json["type"] for each in heard["/all"]] == types
    assert [each.state for each in heard["/states"]] == ["running", "failed"]
    assert [each.json["type"] for each in heard["/types"]] == types[1:2]
    assert heard["/types"][0].json["data"]["message"]["content"][0]["text"] == "outbound"
    assert [each.json["type"] for each in heard["/mixed"]] == types[2:3]
    assert {each.json["data"]["task_id"] for each in receiver.came} == {task}


async def messages(office: Office, task: TaskId) -> None:
    """Append a message to the task, and one from it."""

    async def work(tx: Tx) -> None:
        session = await get_session(tx, office.owner.organization_id, office.session_id, lock=True)
        now = office.clock.now()
        sent, got = (
            TaskMessage(new_id("message"), task, way, (TaskText(way),), to_rfc3339(now))
            for way in ("outbound", "inbound")
        )
        datas = TaskMessageSentData(task, sent), TaskMessageReceivedData(task, got)
        await append(tx, session, [NewEvent(each, EventContext(), now) for each in datas], now=now)

    await office.database.write(work)


async def test_a_raw_text_is_a_secret_and_one_that_the_server_makes_is_shown_once(
    office: Office, receiver: Receiver
) -> None:
    raw = await create_webhook(
        office.app, office.owner, CreateTaskWebhook(receiver.url("/raw"), "0123456789abcdef")
    )
    made = await create_webhook(office.app, office.owner, CreateTaskWebhook(receiver.url("/made")))
    assert raw.secret is None
    assert made.secret is not None
    assert (await read_webhook(office.app, office.owner, made.id)).secret is None
    assert all(each.secret is None for each in await all_webhooks(office.app, office.owner))
    await office.change(await office.begin(), "succeeded")
    await office.send()
    by_path = {each.path: each for each in receiver.came}
    assert by_path["/raw"].is_signed_with("0123456789abcdef")
    assert by_path["/made"].is_signed_with(made.secret)
    # Nothing in the database shows it.
    kept = [bytes(each[0]) for each in await rows(office, "SELECT secret FROM webhooks")]
    assert not any(b"0123456789abcdef" in each for each in kept)


async def test_events_of_tasks_cost_one_look_and_others_none(office: Office) -> None:
    looks: list[str] = []

    class Counting:
        def __init__(self, tx: Tx) -> None:
            self._tx, self.dialect = tx, tx.dialect

        def __getattr__(self, name: str) -> object:
            def noting(sql: str, *args: object, **more: object) -> object:
                looks.append(sql)
                return getattr(self._tx, name)(sql, *args, **more)

            return noting

    async def said(tx: Tx) -> None:
        session = await get_session(tx, office.owner.organization_id, office.session_id, lock=True)
        now = office.clock.now()
        message = Message(new_id("message"), "user", (TextPart("Hello."),), to_rfc3339(now))
        events = [NewEvent(InputMessageData(message), EventContext(), now)]
        await append(Counting(tx), session, events, now=now)  # type: ignore[arg-type]

    await office.database.write(said)
    assert len(looks) == 1
    task = await office.begin()
    looks.clear()

    async def updated(tx: Tx) -> None:
        session = await get_session(tx, office.owner.organization_id, office.session_id, lock=True)
        now = office.clock.now()
        message = TaskMessage(new_id("message"), task, "inbound", (TaskText("Hello."),), to_rfc3339(now))
        events = [NewEvent(TaskMessageSentData(task, message), EventContext(), now)] * 3
        await append(Counting(tx), session, events, now=now)  # type: ignore[arg-type]

    await office.database.write(updated)
    assert len(looks) == 2


# --- order and retries ----------------------------------------------------------


async def test_first_attempts_come_in_the_order_of_the_log_and_a_poison_event_blocks_no_other(
    office: Office, receiver: Receiver
) -> None:
    task = await office.begin()
    body = CreatePushConfig(receiver.url(), SECRET)
    await create_push_config(office.app, office.owner, office.session_id, task, body)
    poison = await office.change(task, "running", progress=None)
    receiver.answer = lambda received: web.Response(status=500 if received.sequence == poison else 200)
    for each in range(5):
        await office.change(task, "running", state_detail=str(each))
    await office.send()
    sequences = [each.sequence for each in receiver.came]
    assert sequences == list(range(poison, poison + 6))
    first = receiver.came[0]
    receiver.came.clear()
    assert await office.send() == 0  # it is not due yet
    office.clock.move(20_000_000)
    await office.change(task, "succeeded")
    receiver.answer = lambda received: web.Response(status=200)
    await office.send()
    # The new event does not wait for the old one, which comes again under its id, with the same body.
    assert [each.sequence for each in receiver.came] == [poison + 6, poison]
    again = receiver.came[1]
    assert (again.id, again.body) == (first.id, first.body)
    assert again.headers["webhook-timestamp"] > first.headers["webhook-timestamp"]
    assert again.is_signed_with(SECRET)


async def test_attempts_are_made_for_three_days_and_then_it_has_failed_for_all_to_see(
    office: Office, receiver: Receiver
) -> None:
    made = await hook(office, receiver)
    receiver.answer = lambda received: web.Response(status=503)
    await office.change(await office.begin(), "failed")
    began, waits = office.clock.time, []
    while await office.send():
        (delivery,) = await deliveries_of(office.app, office.owner, made.id)
        if delivery.state != "retrying":
            break
        (due,) = (await rows(office, "SELECT due_at FROM webhook_deliveries"))[0]
        waits.append((due - office.clock.time) / 1_000_000)
        office.clock.time = due
        # It is not disabled meanwhile: that is another test.
        await office.database.write(lambda tx: tx.run("UPDATE webhooks SET failing_since = NULL"))
    assert (delivery.state, delivery.status_code, delivery.error) == (
        "failed",
        503,
        "the receiver answered 503",
    )
    assert delivery.ended_at is not None
    assert delivery.next_attempt_at is None
    assert 5 <= waits[0] <= 10
    assert 3 * 3600 <= waits[-1] <= 6 * 3600
    assert 15 <= delivery.attempts <= 40
    assert GIVE_UP_AFTER - 6 * HOUR <= office.clock.time - began <= GIVE_UP_AFTER
    assert len({each.id for each in receiver.came}) == 1
    assert (await read_webhook(office.app, office.owner, made.id)).last_error == "the receiver answered 503"


async def test_a_receiver_that_names_a_time_is_not_asked_before_it(
    office: Office, receiver: Receiver
) -> None:
    await hook(office, receiver)
    receiver.answer = lambda received: web.Response(status=429, headers={"retry-after": "600"})
    await office.change(await office.begin(), "succeeded")
    await office.send()
    office.clock.move(590_000_000)
    assert await office.send() == 0
    office.clock.move(20_000_000)
    assert await office.send() == 1


async def test_a_success_forgets_the_failures_before_it(office: Office, receiver: Receiver) -> None:
    made = await hook(office, receiver)
    receiver.answer = lambda received: web.Response(status=500)
    await office.change(await office.begin(), "succeeded")
    await office.send()
    assert (await rows(office, "SELECT failures FROM webhooks"))[0][0] == 1
    receiver.answer = lambda received: web.Response(status=202)
    office.clock.move(HOUR)
    await office.send()
    assert (await rows(office, "SELECT failures, failing_since FROM webhooks"))[0][:] == (0, None)
    assert (await read_webhook(office.app, office.owner, made.id)).last_error is None
    (delivery,) = await deliveries_of(office.app, office.owner, made.id)
    assert (delivery.state, delivery.attempts, delivery.error) == ("delivered", 2, None)


async def test_a_receiver_that_is_gone_is_asked_no_more_until_somebody_enables_it(
    office: Office, receiver: Receiver
) -> None:
    made = await hook(office, receiver)
    receiver.answer = lambda received: web.Response(status=410)
    await office.change(await office.begin(), "succeeded")
    await office.send()
    now = await read_webhook(office.app, office.owner, made.id)
    assert (now.enabled, now.disabled_reason) == (
        False,
        "the receiver answered 410: it wants to hear nothing more",
    )
    await office.change(await office.begin(), "succeeded")
    office.clock.move(HOUR)
    assert await office.send() == 0
    assert told(await deliveries_of(office.app, office.owner, made.id)) == [("failed", 1)]
    enabled = await change_webhook(office.app, office.owner, made.id, UpdateTaskWebhook(enabled=True))
    assert (enabled.enabled, enabled.disabled_reason, enabled.last_error) == (True, None, None)
    receiver.answer = lambda received: web.Response(status=200)
    await office.change(await office.begin(), "succeeded")
    assert await office.send() == 1


async def test_a_webhook_that_fails_for_a_day_is_disabled_and_what_waits_is_sent_once_it_is_enabled(
    office: Office, receiver: Receiver
) -> None:
    made = await hook(office, receiver)
    receiver.answer = lambda received: web.Response(status=500)
    for _ in range(DISABLE_FAILURES + 5):
        await office.change(await office.begin(), "succeeded")
    await office.send()  # many failures, but not for long
    assert (await read_webhook(office.app, office.owner, made.id)).enabled
    office.clock.move(DISABLE_AFTER)
    await office.send()
    stopped = await read_webhook(office.app, office.owner, made.id)
    assert not stopped.enabled
    assert stopped.disabled_reason is not None
    assert "attempts failed, since" in stopped.disabled_reason
    assert "the receiver answered 500" in stopped.disabled_reason
    tried = len(receiver.came)
    office.clock.move(HOUR)
    assert await office.send() == 0
    assert len(receiver.came) == tried
    receiver.answer = lambda received: web.Response(status=200)
    await change_webhook(office.app, office.owner, made.id, UpdateTaskWebhook(enabled=True))
    office.clock.move(12 * HOUR)
    await office.send()
    states = {each.state for each in await deliveries_of(office.app, office.owner, made.id)}
    assert states == {"delivered"}


async def test_a_disabled_webhook_hears_nothing_and_a_changed_one_hears_at_its_new_url(
    office: Office, receiver: Receiver
) -> None:
    body = CreateTaskWebhook(receiver.url(), SECRET, enabled=False)
    made = await create_webhook(office.app, office.owner, body)
    await office.change(await office.begin(), "succeeded")
    assert await rows(office, "SELECT * FROM webhook_deliveries") == []
    change = UpdateTaskWebhook(receiver.url("/new"), "a-secret-of-my-own", enabled=True)
    assert (await change_webhook(office.app, office.owner, made.id, change)).url.endswith("/new")
    await office.change(await office.begin(), "canceled")
    # Disabled after an event was noted, and before it was sent.
    await change_webhook(office.app, office.owner, made.id, UpdateTaskWebhook(enabled=False))
    assert await office.send() == 0
    await change_webhook(office.app, office.owner, made.id, UpdateTaskWebhook(enabled=True))
    assert await office.send() == 1
    (received,) = receiver.came
    assert (received.path, received.state) == ("/new", "canceled")
    assert received.is_signed_with("a-secret-of-my-own")
    unchanged = await change_webhook(office.app, office.owner, made.id, UpdateTaskWebhook())
    assert unchanged.url.endswith("/new")


# --- several processes, and processes that die ----------------------------------


async def test_two_processes_send_each_event_once(office: Office, receiver: Receiver) -> None:
    await hook(office, receiver)
    for _ in range(12):
        session = await office.another_session()
        await office.change(await office.begin(session), "succeeded")
    other = Deliverer(office.app)
    begun = 0
    while fresh := sum(await asyncio.gather(office.deliverer.once(), other.once())):
        begun += fresh
        await asyncio.gather(office.deliverer.settled(), other.settled())
    assert begun == 12
    assert len({each.id for each in receiver.came}) == len(receiver.came) == 12


async def test_what_a_dead_process_was_sending_is_sent_again_under_the_same_id(
    office: Office, receiver: Receiver
) -> None:
    await hook(office, receiver)
    await office.change(await office.begin(), "succeeded")
    (line,) = await look_due(office.app, (), 10)
    lost = await take_attempt(office.app, line)
    assert lost is not None
    assert await take_attempt(office.app, line) is None  # somebody has it
    assert await office.send() == 0
    office.clock.move(LEASE + 1)
    assert await office.send() == 1
    assert [each.id for each in receiver.came] == [lost.delivery.id]


async def test_an_event_that_came_while_another_one_was_sent_follows_it(
    office: Office, receiver: Receiver
) -> None:
    task = await office.begin()
    body = CreatePushConfig(receiver.url(), SECRET)
    await create_push_config(office.app, office.owner, office.session_id, task, body)
    await office.change(task, "running")
    receiver.open.clear()
    assert await office.deliverer.once() == 1
    await receiver.until(1)
    await office.change(task, "succeeded")
    assert await office.deliverer.once() == 0  # its line is taken: it does not overtake
    receiver.open.set()
    await office.deliverer.settled()
    assert await office.send() == 1
    assert [each.state for each in receiver.came] == ["running", "succeeded"]


async def test_a_process_that_took_too_long_changes_nothing_that_another_one_has_noted(
    office: Office, receiver: Receiver
) -> None:
    made = await hook(office, receiver)
    await office.change(await office.begin(), "succeeded")
    attempts = []
    for _ in range(2):
        (line,) = await look_due(office.app, (), 10)
        attempts.append(await take_attempt(office.app, line))
        office.clock.move(LEASE + 1)
    slow, quick = attempts
    assert slow is not None
    assert quick is not None
    assert slow.delivery == quick.delivery
    await note_reply(office.app, quick, Reply(200, None))
    await note_reply(office.app, slow, Reply(500, "too late"))
    (delivery,) = await deliveries_of(office.app, office.owner, made.id)
    assert (delivery.state, delivery.attempts, delivery.error) == ("delivered", 1, None)
    assert (await read_webhook(office.app, office.owner, made.id)).last_error is None


async def test_a_server_alone_sends_at_its_start_what_the_last_one_was_sending(
    office: Office, receiver: Receiver
) -> None:
    await hook(office, receiver)
    await office.change(await office.begin(), "succeeded")
    (line,) = await look_due(office.app, (), 10)
    assert await take_attempt(office.app, line) is not None
    await free_all(office.app)
    assert await office.send() == 1


async def test_a_receiver_that_hangs_holds_up_no_other(office: Office, receiver: Receiver) -> None:
    await hook(office, receiver, "/slow")
    async with receiving() as quick:
        await hook(office, quick)
        for _ in range(OF_ONE + 2):
            session = await office.another_session()
            await office.change(await office.begin(session), "succeeded")
        receiver.open.clear()
        await office.deliverer.once()
        await receiver.until(OF_ONE)
        await quick.until(OF_ONE)
        # The slow one has no more than its share, however often it is looked for; the quick one gets on.
        while len(quick.came) < OF_ONE + 2:
            await office.deliverer.once()
            await asyncio.sleep(0)
        assert len(receiver.came) == OF_ONE
        receiver.open.set()
        await office.deliverer.settled()
        await office.send()
        assert len(receiver.came) == OF_ONE + 2


async def test_a_receiver_that_fails_is_asked_once_at_a_time(office: Office, receiver: Receiver) -> None:
    await hook(office, receiver)
    receiver.answer = lambda received: web.Response(status=500)
    await office.change(await office.begin(), "succeeded")
    await office.send()
    for _ in range(3):
        session = await office.another_session()
        await office.change(await office.begin(session), "succeeded")
    assert await office.deliverer.once() == 1
    await office.deliverer.settled()
    assert AT_ONCE > OF_ONE > 1
