"""`perdure keys rotate-master`: sealed data stays readable, wherever the key is kept."""

from __future__ import annotations

import secrets
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from perdure.app.accounts import bootstrap
from perdure.settings import load
from perdure.store.master_key import parse_master_key
from perdure.wiring import open_parts
from tests.command import Done, perdure
from tests.conformance.drivers.vendor import Vendor, open_vendor
from tests.server import Server, post, use_simulated_model
from tests.talk import Json, Talk, new_talk, text_in
from tests.vendors import KEY, listing, vendor_provider

SECRET = "correct-horse-battery-staple"
OLD, NEW = secrets.token_hex(32), secrets.token_hex(32)
TWO = {"PERDURE_MASTER_KEY": NEW, "PERDURE_MASTER_KEY_PREVIOUS": OLD}


@pytest_asyncio.fixture
async def vendor() -> AsyncIterator[Vendor]:
    async with open_vendor() as opened:
        yield opened


async def rotate(data: Path, url: str, *more: str, given: str = "", **env: str) -> Done:
    where = ("--data", str(data), *(("--database-url", url) if url else ()))
    done = await perdure("keys", "rotate-master", *where, *more, given=given, **env)
    for key in (OLD, NEW):
        assert key not in done.out + done.err
    return done


async def seal(http: httpx.AsyncClient, vendor: Vendor) -> tuple[Talk, Json]:
    """Create one of each kind of sealed data: a session's secret and a provider's key."""
    await use_simulated_model(http)
    talk = await new_talk(http)
    await http.put(talk.path("/storage/secrets"), json={"secrets": {"PASSWORD": SECRET}})
    return talk, await vendor_provider(http, vendor)


async def check(http: httpx.AsyncClient, sealed: tuple[Talk, Json], vendor: Vendor) -> None:
    """Both can be opened: the secret is redacted in a message, and the vendor receives its key."""
    message = await Talk(http, sealed[0].id).say(f"It is {SECRET}.")
    assert text_in(message) == "It is [secret PASSWORD]."
    vendor.will(listing("one"))
    await post(http, f"/v1/providers/{sealed[1]['id']}/sync-models", None, 200)
    assert vendor.asked[-1].headers["authorization"] == f"Bearer {KEY}"


def client(server: Server) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, timeout=30)


async def test_a_key_in_the_data_folder_is_replaced_while_the_server_is_stopped(
    database_url: str, tmp_path: Path, vendor: Vendor
) -> None:
    file, mine = tmp_path / "master.key", tmp_path / "mine"
    async with Server(tmp_path, database_url=database_url) as server, client(server) as http:
        sealed = await seal(http, vendor)
        await server.stop()
        mine.write_text(OLD + "\n")
        keys = [file.read_text()]
        for options, given in ((("--new-key", str(mine)), ""), (("--new-key", "-"), NEW), ((), "")):
            done = await rotate(tmp_path, database_url, *options, given=given)
            assert done.status == 0, done.err
            assert "Data keys re-encrypted: 1" in done.out
            keys.append(file.read_text())
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            assert [each.name for each in tmp_path.glob("master.key*")] == ["master.key"]
        assert [parse_master_key(key).hex() for key in keys[1:3]] == [OLD, NEW]
        assert len(set(keys)) == 4
        await server.start()
        await check(http, sealed, vendor)


async def test_an_invalid_key_changes_nothing_and_is_not_printed(tmp_path: Path) -> None:
    async with Server(tmp_path) as server:
        await server.stop()
    before = (tmp_path / "master.key").read_bytes()
    done = await rotate(tmp_path, "", "--new-key", "-", given="hunter2")
    assert (done.status, done.out) == (1, "")
    assert "32 bytes" in done.err
    assert "hunter2" not in done.err
    assert (await rotate(tmp_path, "", "--new-key", str(tmp_path / "missing"))).status == 2
    assert (tmp_path / "master.key").read_bytes() == before


async def test_a_server_on_sqlite_must_be_stopped_first(server: Server) -> None:
    done = await rotate(server.data, "")
    assert (done.status, done.out) == (1, "")
    assert "stop it first" in done.err


async def test_servers_on_postgresql_keep_working_while_their_shared_key_file_is_replaced(
    postgres_url: str, tmp_path: Path, vendor: Vendor
) -> None:
    one, two = Server(tmp_path, database_url=postgres_url), Server(tmp_path, database_url=postgres_url)
    async with one, two, client(one) as http, client(two) as other:
        sealed = await seal(http, vendor)
        # The second server has not opened anything yet, so its first key is the new one.
        for _ in range(2):
            assert (await rotate(tmp_path, postgres_url)).status == 0
            await check(other, sealed, vendor)
            await check(http, sealed, vendor)
            await post(other, "/v1/orgs", {"name": "Founded since"})


async def test_a_key_in_the_settings_is_rotated_with_both_keys_set(
    database_url: str, tmp_path: Path, vendor: Vendor
) -> None:
    async with (
        Server(tmp_path, database_url=database_url, environment={"PERDURE_MASTER_KEY": OLD}) as server,
        client(server) as http,
    ):
        sealed = await seal(http, vendor)
        await server.stop()
        for rewrapped in (1, 0):
            done = await rotate(tmp_path, database_url, **TWO)
            assert done.status == 0, done.err
            assert f"Data keys re-encrypted: {rewrapped}" in done.out
            assert "PERDURE_MASTER_KEY_PREVIOUS is no longer needed" in done.out
        with pytest.raises(RuntimeError, match="this process does not have"):
            await server.start()
    assert not (tmp_path / "master.key").exists()
    async with (
        Server(tmp_path, database_url=database_url, environment={"PERDURE_MASTER_KEY": NEW}) as server,
        client(server) as http,
    ):
        await check(http, sealed, vendor)


async def test_a_key_in_the_settings_is_not_rotated_without_both_keys_and_the_error_says_how(
    tmp_path: Path,
) -> None:
    async with open_parts(load({"PERDURE_MASTER_KEY": OLD}, data=tmp_path)) as parts:
        await bootstrap(parts.app)
    for environment, options, message in (
        ({"PERDURE_MASTER_KEY": OLD}, (), "PERDURE_MASTER_KEY_PREVIOUS to the current key"),
        (TWO | {"PERDURE_MASTER_KEY_PREVIOUS": "ab" * 32}, (), "which this process does not have"),
        (TWO, ("--new-key", "-"), "put the new key into PERDURE_MASTER_KEY"),
    ):
        done = await rotate(tmp_path, "", *options, given=OLD, **environment)
        assert (done.status, done.out) == (1, "")
        assert message in done.err
    async with open_parts(load({"PERDURE_MASTER_KEY": OLD}, data=tmp_path)):
        pass


async def test_servers_on_postgresql_can_change_to_a_new_key_one_after_the_other(
    postgres_url: str, tmp_path: Path, vendor: Vendor
) -> None:
    before, between, after = {"PERDURE_MASTER_KEY": OLD}, TWO, {"PERDURE_MASTER_KEY": NEW}

    def serving(environment: dict[str, str]) -> Server:
        return Server(tmp_path, database_url=postgres_url, environment=environment)

    async with serving(before) as old, client(old) as http:
        sealed = await seal(http, vendor)
        async with serving(between) as both, client(both) as other:
            # Only one server has the new key, but both can open what either seals.
            await check(other, sealed, vendor)
            more = await seal(other, vendor)
            await check(http, more, vendor)
            await old.stop()
            assert (await rotate(tmp_path, postgres_url, **between)).status == 0
            await check(other, sealed, vendor)
            async with serving(after) as new, client(new) as last:
                await check(last, more, vendor)
                await check(other, sealed, vendor)


async def test_a_key_can_move_from_the_folder_into_the_settings_and_back(
    tmp_path: Path, vendor: Vendor
) -> None:
    async with Server(tmp_path) as server, client(server) as http:
        sealed = await seal(http, vendor)
    key = (tmp_path / "master.key").read_text()
    done = await rotate(tmp_path, "", PERDURE_MASTER_KEY=NEW, PERDURE_MASTER_KEY_PREVIOUS=key)
    assert done.status == 0, done.err
    (tmp_path / "master.key").unlink()
    done = await rotate(tmp_path, "", PERDURE_MASTER_KEY_PREVIOUS=NEW)
    assert done.status == 0, done.err
    async with Server(tmp_path) as server, client(server) as http:
        await check(http, sealed, vendor)


def _hex(file: Path) -> str:
    return parse_master_key(file.read_text()).hex()
