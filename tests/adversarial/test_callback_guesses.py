"""Who guesses the tokens of callbacks reaches nothing, and keeps nobody from answering."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from perdure.app.callbacks import admit_answer, answer_callback
from perdure.app.context import App
from perdure.app.rate_limit import TOKEN_BURST
from perdure.domain.callbacks import TOKEN_PREFIX, CallbackResult, is_signed, sign_token
from perdure.domain.errors import Gone, RateLimited
from perdure.engine.advance import advance
from tests.journeys.test_parked_turns import Orders, one_order, row_of

RESULT = CallbackResult("result")


class Untouchable:
    """A database that no guess may reach."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a guess reached the database: {name}")


def guesses(real: str) -> list[str]:
    """Tokens that nobody has issued: of any form, of the right form, and like a real one."""
    word = secrets.token_urlsafe(32)
    other = "A" if real[-2] != "A" else "B"
    return [
        "",
        "x",
        "é",
        "\ud800",
        f"{TOKEN_PREFIX}{word}",
        f"{TOKEN_PREFIX}{word}{'A' * 22}",
        sign_token(b"another key", word),
        f"{real[:-2]}{other}{real[-1]}",
        f"{real[:20]}{other}{real[21:]}" if real[20] != other else real[:-1],
        real[:-1],
        f"{real}A",
        f"{real}\n",
        real.upper(),
    ]


def use_often(app: App, token: str) -> None:
    for _ in range(100 * round(TOKEN_BURST)):
        admit_answer(app, token)


async def test_a_guess_is_refused_without_a_look_into_the_database(database_url: str, tmp_path: Path) -> None:
    orders = Orders()
    async with one_order(database_url, tmp_path, orders) as there:
        await there.ask()
        real = orders.urls[-1].rsplit("/", 1)[1]
        blind = replace(there.app, database=Untouchable())
        for guess in guesses(real):
            with pytest.raises(Gone):
                admit_answer(blind, guess)
            with pytest.raises(Gone):
                await answer_callback(blind, guess, RESULT)
        admit_answer(blind, real)
        with pytest.raises(AssertionError, match="reached the database"):
            await answer_callback(blind, real, RESULT)


async def test_any_number_of_guesses_leaves_real_tokens_their_own_limits(
    database_url: str, tmp_path: Path
) -> None:
    orders = Orders()
    async with one_order(database_url, tmp_path, orders) as there:
        await there.ask()
        real = orders.urls[-1].rsplit("/", 1)[1]
        for _ in range(5_000):
            with pytest.raises(Gone):
                admit_answer(there.app, f"{TOKEN_PREFIX}{secrets.token_urlsafe(32)}{'A' * 22}")
        one = sign_token(there.app.callback_key, secrets.token_urlsafe(32))
        with pytest.raises(RateLimited) as refused:
            use_often(there.app, one)
        assert 0 < (refused.value.retry_after or 0) <= 1
        admit_answer(there.app, real)
        await answer_callback(there.app, real, RESULT)
        await advance(there.engine, there.session.id)
        assert (await row_of(there)).status == "idle"


def test_a_token_proves_which_key_made_it() -> None:
    key, word = secrets.token_bytes(32), secrets.token_urlsafe(32)
    token = sign_token(key, word)
    assert token.startswith(TOKEN_PREFIX + word)
    assert is_signed(key, token)
    assert not is_signed(secrets.token_bytes(32), token)
    assert not any(is_signed(key, guess) for guess in guesses(token))


async def test_a_request_with_a_guess_is_refused_before_its_body_is_there(each: httpx.AsyncClient) -> None:
    url = each.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    path = f"/v1/callbacks/{TOKEN_PREFIX}{secrets.token_urlsafe(32)}{'A' * 22}"
    head = f"POST {path} HTTP/1.1\r\nHost: {url.host}:{url.port}\r\nContent-Length: 1000000\r\n\r\n"
    writer.write(head.encode())
    async with asyncio.timeout(30):
        line = await reader.readline()
    assert line.startswith(b"HTTP/1.1 410 ")
    writer.close()


async def test_guesses_look_like_tokens_that_are_dead(
    each: httpx.AsyncClient,
) -> None:
    for _ in range(200):
        answer = await each.post(f"/v1/callbacks/{TOKEN_PREFIX}{secrets.token_urlsafe(32)}", json=1)
        assert (answer.status_code, answer.json()["code"]) == (410, "gone")
