"""The protocol drivers against a real, independent model server: llama.cpp with a small model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from perdure.domain.errors import ModelError
from perdure.domain.ids import new_id
from perdure.llm.driver import Driver, OutputFormat, ProviderConfig, ToolSpec
from perdure.llm.http import Http
from perdure.llm.registry import make_driver
from tests.unit.llm.talk import CLOCK, WEATHER, Heard, agent, ask, call, kept, result, system, user

TYPES = ("openai", "openai_completions", "anthropic")


@pytest_asyncio.fixture
async def pool() -> AsyncIterator[Http]:
    opened = Http()
    yield opened
    await opened.close()


@pytest.fixture(params=TYPES)
def driver(request: pytest.FixtureRequest, llama_url: str, pool: Http) -> Driver:
    return make_driver(ProviderConfig(request.param, llama_url, "sk-no-key-is-needed"), pool)


async def test_it_streams_an_answer_and_counts_its_tokens(driver: Driver) -> None:
    heard = Heard()
    request = ask(user("Count from one to ten, in words."), system="You are brief.", max_output_tokens=40)
    response = await driver.generate(request, heard)
    assert len(heard.pieces("text")) > 1
    assert response.text == heard.joined("text")
    assert response.text.strip()
    assert response.response_id
    assert response.usage is not None
    assert 10 < response.usage.input_tokens < 100
    assert 1 < response.usage.output_tokens <= 41
    assert response.tool_calls == ()
    assert response.finish_reason in {"stop", "length"}


async def test_it_counts_the_tokens_that_the_server_had_cached(driver: Driver) -> None:
    request = ask(user(f"Repeat after me: {new_id('message')} and a good day to you."), max_output_tokens=2)
    await driver.generate(request, Heard())
    usage = (await driver.generate(request, Heard())).usage
    assert usage is not None
    assert usage.cache_read_tokens is not None
    assert usage.input_tokens // 2 < usage.cache_read_tokens <= usage.input_tokens


async def test_a_conversation_continues(driver: Driver) -> None:
    first = ask(user("Say a word."), max_output_tokens=5)
    said = kept(await driver.generate(first, Heard()), driver.provider_type)
    response = await driver.generate(
        ask(*first.messages, said, user("Another one."), max_output_tokens=5), Heard()
    )
    assert response.text


async def test_tools_results_and_notes_in_the_history_are_accepted(driver: Driver) -> None:
    messages = (
        user("What is the weather in Rome, and what time is it?"),
        agent("Let me see.", call("call_1", arguments={"city": "Rome"}), call("call_2", "clock")),
        result("call_1", {"sky": "sunny"}),
        user("Be quick!"),
        result("call_2", None, "the clock is broken"),
        system("Answer in five words."),
    )
    response = await driver.generate(ask(*messages, tools=(WEATHER, CLOCK), max_output_tokens=8), Heard())
    assert response.usage is not None
    assert response.usage.input_tokens > 50


async def test_a_prompt_that_is_too_long_is_reported_as_such(driver: Driver) -> None:
    with pytest.raises(ModelError) as caught:
        await driver.generate(ask(user("word " * 20_000)), Heard())
    assert (caught.value.code, caught.value.transient) == ("context_length_exceeded", False)


async def test_cancelling_stops_the_server(driver: Driver, llama_url: str) -> None:
    heard = Heard()
    begun = asyncio.Event()

    def first_piece(kind: str, piece: str) -> None:
        heard(kind, piece)
        begun.set()

    request = ask(user("Tell me a very long story about the sea."), max_output_tokens=500)
    running = asyncio.ensure_future(driver.generate(request, first_piece))
    await asyncio.wait_for(begun.wait(), 60)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len(heard.deltas) < 400
    async with aiohttp.ClientSession() as session, asyncio.timeout(20):
        busy = True
        while busy:
            async with session.get(llama_url.removesuffix("/v1") + "/slots") as answer:
                busy = any(slot["is_processing"] for slot in await answer.json())


async def test_concurrent_calls_do_not_mix(driver: Driver) -> None:
    heard = [Heard() for _ in range(6)]
    calls = [
        driver.generate(ask(user(f"Say the number {number}."), max_output_tokens=6), one)
        for number, one in enumerate(heard)
    ]
    responses = await asyncio.gather(*calls)
    assert [response.text for response in responses] == [one.joined("text") for one in heard]


async def test_the_model_is_listed(driver: Driver) -> None:
    models = await driver.list_models()
    assert len(models) == 1
    assert models[0].context_tokens


SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}, "degrees": {"type": "integer"}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}


async def test_a_grammar_forces_the_form_of_an_answer(llama_url: str, pool: Http) -> None:
    chat = make_driver(ProviderConfig("openai_completions", llama_url, "sk-no-key-is-needed"), pool)
    form = OutputFormat(SCHEMA, ToolSpec("final_result", "Gives the answer.", SCHEMA))
    question = ask(user("Tell me a story about the weather."), max_output_tokens=60, output=form)
    heard = Heard()
    response = await chat.generate(question, heard)
    assert len(heard.pieces("text")) > 3
    assert response.text == heard.joined("text")
    value = json.loads(response.text)
    assert (value["city"] in {"Rome", "Oslo"}, type(value["degrees"])) == (True, int)
