"""`perdure webhooks`: add, list, test, disable, enable and remove webhooks, and list their deliveries."""

from __future__ import annotations

import json
from pathlib import Path

from aiohttp import web

from perdure.client import Client
from tests.command import perdure
from tests.hooks import SECRET, Receiver, receiving
from tests.server import Server


async def test_the_command_manages_webhooks(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", environment={"PERDURE_PRIVATE_ADDRESSES": "127.0.0.1"})
    async with server, receiving() as receiver, Client(server.url) as client:
        await _manage(client, receiver, tmp_path)


async def _manage(client: Client, receiver: Receiver, tmp_path: Path) -> None:
    url = client.transport.base_url
    done = await perdure("webhooks", "add", receiver.url("/a"), url=url)
    first, secret = done.out.split()[1], done.out.split()[3]
    assert secret.startswith("whsec_")
    assert "not shown again" in done.err
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    done = await perdure("webhooks", "add", receiver.url("/b"), "--secret", str(file), "--json", url=url)
    second = json.loads(done.out)["id"]
    assert "secret" not in json.loads(done.out)
    assert (await perdure("webhooks", "test", first, url=url)).out == (
        "delivered: the receiver answered 204\n"
    )
    assert (await perdure("webhooks", "test", second, "--json", url=url)).status == 0
    assert receiver.came[0].is_signed_with(secret)
    assert receiver.came[1].is_signed_with(SECRET)
    receiver.answer = lambda received: web.Response(status=500)
    done = await perdure("webhooks", "test", first, url=url)
    assert (done.status, done.out) == (1, "")
    assert "the test was not delivered: the receiver answered 500" in done.err
    rows = [
        line.split("\t")
        for line in (await perdure("webhooks", "deliveries", first, url=url)).out.splitlines()
    ]
    assert [row[3] for row in rows] == ["STATE", "failed", "delivered"]
    assert rows[1][-1] == "the receiver answered 500"
    assert (await perdure("webhooks", "disable", second, url=url)).out == f"disabled {second}\n"
    listed = (await perdure("webhooks", "list", url=url)).out.splitlines()
    assert [line.split("\t")[1] for line in listed] == ["STATUS", "enabled", "disabled"]
    assert (await perdure("webhooks", "enable", second, url=url)).out == f"enabled {second}\n"
    assert (await perdure("webhooks", "remove", second, url=url)).out == f"removed {second}\n"
    assert (await perdure("webhooks", "remove", second, url=url)).status == 1
    assert [each.id for each in await client.list_webhooks()] == [first]
