"""Webhooks lead nowhere inside, and tell nobody their secrets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from perdure.app.push_configs import all_push_configs, create_push_config
from perdure.app.webhooks import (
    all_webhooks,
    create_webhook,
    deliveries_of,
    read_webhook,
    send_test,
)
from perdure.domain.accounts import Caller
from perdure.domain.errors import Forbidden, InvalidInput
from perdure.domain.network import PrivateAddresses
from perdure.domain.webhooks import CreatePushConfig, CreateTaskWebhook, sign
from perdure.net.webhook_http import Reply, check_target, post_signed
from perdure.worker.webhooks import Deliverer
from tests.adversarial.test_addresses import PRIVATE_HOSTS
from tests.hooks import SECRET, Receiver, office, receiving
from tests.sites import Names, serving

REQUEST = sign(SECRET, "delivery_1", 1, b"{}")


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as opened:
        yield opened


async def refusal(url: str, private: PrivateAddresses = False, **names: list[str]) -> str | None:
    try:
        await check_target(url, private, Names(**names))
    except InvalidInput as error:
        return error.code if error.field == "url" else f"no field: {error}"
    return None


@pytest.mark.parametrize("host", sorted(PRIVATE_HOSTS))
async def test_no_spelling_of_a_private_address_is_accepted_or_asked(host: str) -> None:
    local = {"localhost": ["127.0.0.1"], "localhost.": ["127.0.0.1"]}
    assert await refusal(f"http://{host}:8080/", **local) == "invalid_webhook_url"
    reply = await post_signed(f"http://{host}:8080/", REQUEST, False, resolver=Names(**local))
    assert reply.status is None
    assert reply.error is not None


@pytest.mark.parametrize(
    ("address", "private", "code"),
    [
        ("93.184.215.14", False, None),
        ("10.0.0.1", False, "invalid_webhook_url"),
        ("10.0.0.1", ("10.0.0.0/8",), None),
        ("169.254.169.254", True, "invalid_webhook_url"),
    ],
)
async def test_what_a_name_resolves_to_decides(
    address: str, private: PrivateAddresses, code: str | None
) -> None:
    assert await refusal("https://hooks.test/", private, hooks_test=[address]) == code


async def test_a_refusal_does_not_tell_what_a_name_inside_stands_for() -> None:
    with pytest.raises(InvalidInput) as refused:
        await check_target("https://hooks.test/", False, Names(hooks_test=["10.1.2.3"]))
    assert "hooks.test is not a public host" in refused.value.message
    assert "10.1.2.3" not in refused.value.message


@pytest.mark.parametrize(
    ("url", "hints"),
    [
        ("http://10.0.0.1/", True),
        ("http://inside.test/", True),
        ("http://169.254.169.254/", False),
        ("http://metadata.test/", False),
        ("http://user:word@10.0.0.1/", False),
        ("ftp://hooks.test/", False),
    ],
)
async def test_the_setting_for_private_networks_is_named_where_it_would_help(url: str, hints: bool) -> None:
    names = Names(inside_test=["10.0.0.1"], metadata_test=["169.254.169.254"])
    with pytest.raises(InvalidInput) as refused:
        await check_target(url, False, names)
    assert ("PERDURE_PRIVATE_ADDRESSES" in refused.value.message) == hints


async def test_a_name_that_turns_inside_after_it_was_accepted_is_not_asked(receiver: Receiver) -> None:
    names = Names(hooks_test=["93.184.215.14", "127.0.0.1"])
    await check_target(receiver.url(host="hooks.test"), False, names)
    reply = await post_signed(receiver.url(host="hooks.test"), REQUEST, False, resolver=names)
    assert (reply.status, reply.error) == (None, "hooks.test is not a public host")
    assert receiver.came == []


async def test_the_worker_asks_no_address_inside_either(tmp_path: Path, receiver: Receiver) -> None:
    """Also where it was allowed when the webhook was made."""
    async with office(tmp_path, private=True) as place:
        made = await create_webhook(place.app, place.owner, CreateTaskWebhook(receiver.url(), SECRET))
    async with office(tmp_path, private=False) as place:
        place.deliverer = Deliverer(place.app, Names())
        await place.change(await place.begin(), "succeeded")
        await place.send()
        (delivery,) = await deliveries_of(place.app, place.owner, made.id)
        assert (delivery.state, delivery.error) == ("retrying", "127.0.0.1 is not a public host")
        assert "public host" in str((await send_test(place.app, place.owner, made.id)).error)
    assert receiver.came == []


async def test_a_redirect_leads_nowhere(receiver: Receiver) -> None:
    async with serving() as inside:
        for status in (301, 302, 303, 307, 308):
            receiver.answer = lambda received, status=status: web.Response(  # type: ignore[misc]
                status=status, headers={"location": inside.url("/secret")}
            )
            reply = await post_signed(receiver.url(), REQUEST, True)
            assert reply.status == status
            assert reply.error == f"the receiver answered {status} (redirects are not followed)"
        assert inside.asked == []


async def test_an_answer_without_end_costs_nothing_and_one_that_does_not_come_ends_in_time(
    receiver: Receiver,
) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b"x" * 65536)

    async with serving() as site:
        site.answers["/"] = endless
        assert await post_signed(site.url("/"), REQUEST, True) == Reply(200, None)
    receiver.open.clear()
    late = await post_signed(receiver.url(), REQUEST, True, seconds=0.05)
    assert (late.status, late.error) == (None, "no answer within 0.05 seconds")
    receiver.open.set()


async def test_what_is_no_http_and_nobody_who_listens_are_failures() -> None:
    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"I speak no HTTP\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(rude, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert (await post_signed(f"http://127.0.0.1:{port}/", REQUEST, True)).error is not None
    server.close()
    await server.wait_closed()
    nobody = await post_signed(f"http://127.0.0.1:{port}/", REQUEST, True)
    assert nobody.status is None
    assert nobody.error is not None
    unknown = await post_signed("http://hooks.test/", REQUEST, True, resolver=Names())
    assert unknown.error is not None


async def test_no_answer_log_or_row_shows_a_secret(
    tmp_path: Path, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key = "a-secret-of-my-own"
    async with office(tmp_path) as place:
        receiver.answer = lambda received: web.Response(status=500, text=key)
        made = await create_webhook(place.app, place.owner, CreateTaskWebhook(receiver.url(), key))
        task = await place.begin()
        body = CreatePushConfig(receiver.url(), key)
        config = await create_push_config(place.app, place.owner, place.session_id, task, body)
        await place.change(task, "succeeded")
        await place.send()
        shown = [
            made,
            config,
            await read_webhook(place.app, place.owner, made.id),
            await all_webhooks(place.app, place.owner),
            await all_push_configs(place.app, place.owner, place.session_id, task),
            await deliveries_of(place.app, place.owner, made.id),
            await send_test(place.app, place.owner, made.id),
        ]
        assert key not in repr(shown)
        assert all(each.is_signed_with(key) for each in receiver.came)
        for table in ("webhooks", "webhook_deliveries", "webhook_lines"):
            found = await place.database.read(lambda tx, table=table: tx.all(f"SELECT * FROM {table}"))
            assert key not in repr([tuple(row) for row in found])
            assert key.encode() not in repr([tuple(row) for row in found]).encode()
    assert key not in caplog.text
    assert not any(key.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


async def test_a_secret_that_was_moved_to_another_webhook_signs_nothing(
    tmp_path: Path, receiver: Receiver
) -> None:
    async with office(tmp_path) as place:
        mine = await create_webhook(place.app, place.owner, CreateTaskWebhook(receiver.url(), SECRET))
        other = await create_webhook(
            place.app, place.owner, CreateTaskWebhook(receiver.url(), "another-secret-of-mine", enabled=False)
        )
        await place.database.write(
            lambda tx: tx.run(
                "UPDATE webhooks SET secret = (SELECT secret FROM webhooks WHERE id = ?) WHERE id = ?",
                other.id,
                mine.id,
            )
        )
        await place.change(await place.begin(), "succeeded")
        await place.send()
        (delivery,) = await deliveries_of(place.app, place.owner, mine.id)
        assert delivery.state == "retrying"
        assert "cannot be decrypted" in (delivery.error or "")
        assert (await read_webhook(place.app, place.owner, mine.id)).last_error is None
    assert receiver.came == []


async def test_members_manage_no_webhooks_of_the_organization(tmp_path: Path, receiver: Receiver) -> None:
    async with office(tmp_path) as place:
        member = Caller(place.owner.organization_id, place.owner.user_id, "member")
        with pytest.raises(Forbidden):
            await create_webhook(place.app, member, CreateTaskWebhook(receiver.url()))
        with pytest.raises(Forbidden):
            await all_webhooks(place.app, member)


async def test_a_webhook_whose_row_is_damaged_keeps_no_other_waiting(
    tmp_path: Path, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    async with office(tmp_path) as place:
        for path in ("/first", "/second"):
            await create_webhook(place.app, place.owner, CreateTaskWebhook(receiver.url(path), SECRET))
        damage = "UPDATE webhooks SET secret = 'no bytes' WHERE url LIKE '%/first'"
        await place.database.write(lambda tx: tx.run(damage))
        for _ in range(3):
            await place.change(await place.begin(await place.another_session()), "succeeded")
        await place.send()
    assert [each.path for each in receiver.came] == ["/second"] * 3
    assert "nothing can be sent to the webhook" in caplog.text
