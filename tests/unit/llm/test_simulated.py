"""The simulated model: scripts in messages, scripts in Python, transient failures."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from perdure.domain.errors import ModelError
from perdure.domain.messages import Message, Usage
from perdure.llm.driver import ModelResponse
from perdure.llm.simulated import SimulatedDriver, Step
from tests.unit.llm.talk import Heard, agent, ask, call, result, user


def scripted(*steps: dict[str, Any], before: str = "Do it. ", after: str = "") -> Message:
    return user(f"{before}[[sim {json.dumps(list(steps))}]]{after}")


async def play(
    *messages: Message, driver: SimulatedDriver | None = None, heard: Heard | None = None
) -> ModelResponse:
    return await (driver or SimulatedDriver()).generate(ask(*messages), heard or Heard())


class Clock:
    """Records the requested sleeps."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)


async def test_without_a_script_it_introduces_itself_and_quotes_the_message() -> None:
    heard = Heard()
    response = await play(user("Hello you"), heard=heard)
    assert "simulated model" in response.text
    assert "Hello you" in response.text
    assert response.text == heard.joined("text")
    assert len(heard.deltas) > 5
    assert len((await play(user("x" * 1000))).text) < 400
    assert (await play()).text.endswith("do not think.")


async def test_the_number_of_answers_since_the_newest_user_message_selects_the_step() -> None:
    ordered = scripted(
        {"tool_calls": [{"name": "a", "arguments": {"n": 1}}]}, {"text": "in between"}, {"text": "last"}
    )
    first = await play(user("old"), agent("old"), ordered)
    assert [(one.name, one.arguments) for one in first.tool_calls] == [("a", {"n": 1})]
    assert (first.text, first.finish_reason) == ("", "tool_calls")
    history = [ordered, agent(*first.tool_calls), result(first.tool_calls[0].id, "x")]
    assert (await play(*history)).text == "in between"
    assert (await play(*history, agent("in between"))).text == "last"
    assert (await play(*history, agent("in between"), agent("last"))).text == "last"
    assert "simulated" in (await play(*history, user("something else"))).text


async def test_after_a_script_without_text_it_is_done() -> None:
    assert (
        await play(scripted({"tool_calls": [{"name": "a"}]}), agent(call("c")), result("c"))
    ).text == "Done."
    assert (await play(scripted())).text == "Done."


async def test_it_repeats_its_last_output() -> None:
    script = scripted({"text": "Well."}, {"output": 7})
    assert (await play(script, agent(call("c")), result("c"), agent(call("d")), result("d"))).text == "7"


async def test_call_ids_are_the_same_on_every_attempt_and_differ_from_each_other() -> None:
    ordered = scripted({"tool_calls": [{"name": "a"}, {"name": "a"}, {"name": "b", "id": "mine"}]})
    first, second = await play(ordered), await play(ordered)
    assert first == second
    ids = [one.id for one in first.tool_calls]
    assert len(set(ids)) == 3
    assert ids[2] == "mine"


async def test_the_script_may_be_one_step_and_anywhere_in_the_text() -> None:
    assert (await play(user('Say [[sim {"text": "one ]] bracket"}]] please ]]'))).text == "one ]] bracket"
    assert (await play(scripted({"text": "b"}, before='[[sim {"text": "a"}]] or '))).text == "b"


async def test_tokens_are_words_that_end_with_a_mark() -> None:
    heard = Heard()
    response = await play(scripted({"tokens": 5}), heard=heard)
    assert len(response.text.split()) == len(heard.deltas) == 5
    assert response.text.endswith("END.")
    assert (await play(scripted({"tokens": 1}))).text == "END."
    assert (await play(scripted({"text": "Hi.", "tokens": 2}))).text == "Hi. word END."


async def test_text_keeps_its_white_space() -> None:
    text = "  a\n\n  b\tc \n"
    assert (await play(scripted({"text": text}))).text == text
    assert (await play(scripted({"text": "   "}))).text == "   "


async def test_it_waits_before_the_first_word_and_before_each_word() -> None:
    clock = Clock()
    driver = SimulatedDriver(sleep=clock)
    await play(scripted({"tokens": 3, "first_ms": 1500, "delay_ms": 20}), driver=driver)
    assert clock.slept == [1.5, 0.02, 0.02, 0.02]


async def test_it_thinks_before_it_speaks() -> None:
    heard = Heard()
    response = await play(scripted({"thinking": "hm", "text": "ok"}), heard=heard)
    assert heard.deltas == [("thinking", "hm"), ("text", "ok")]
    assert response.thinking == "hm"


async def test_a_failure_is_raised_with_all_its_fields() -> None:
    fail: dict[str, object] = {
        "code": "provider_rate_limited",
        "status": 429,
        "retry_after": 2.5,
        "message": "slow down",
    }
    with pytest.raises(ModelError, match="slow down") as caught:
        await play(scripted({"fail": fail}))
    error = caught.value
    assert (error.code, error.status, error.retry_after, error.transient) == (
        "provider_rate_limited",
        429,
        2.5,
        True,
    )
    for more in ({}, {"transient": True}):
        with pytest.raises(ModelError) as caught:
            await play(scripted({"fail": {"code": "provider_auth", **more}}))
        assert caught.value.transient is bool(more)


async def test_a_failure_may_pass_after_some_attempts_of_the_same_step() -> None:
    driver = SimulatedDriver()
    for ordered in (
        scripted({"fail": {"times": 2}, "text": "ok"}),
        scripted({"fail": {"times": 2}, "text": "ok"}),
    ):
        for _ in range(2):
            with pytest.raises(ModelError):
                await play(ordered, driver=driver)
        assert (await play(ordered, driver=driver)).text == "ok"


async def test_a_cut_comes_after_some_words_and_may_pass() -> None:
    driver, heard = SimulatedDriver(), Heard()
    ordered = scripted({"tokens": 5, "cut_after": 2, "cut_times": 1})
    with pytest.raises(ModelError) as caught:
        await play(ordered, driver=driver, heard=heard)
    assert (caught.value.code, caught.value.transient) == ("provider_bad_response", True)
    assert len(heard.deltas) == 2
    assert (await play(ordered, driver=driver)).text.endswith("END.")
    with pytest.raises(ModelError):
        await play(scripted({"text": "a", "cut_after": 99}))


async def test_attempts_are_forgotten_in_time() -> None:
    driver = SimulatedDriver()
    driver._attempts = {("message", number, "fail"): 1 for number in range(10_000)}
    await play(scripted({"fail": {"times": 0}, "text": "ok"}), driver=driver)
    assert len(driver._attempts) == 10_000


async def test_usage_is_the_number_of_words_or_what_the_script_says() -> None:
    plain = await SimulatedDriver().generate(
        ask(user("three short words"), result("c", "two more"), system="a b"), Heard()
    )
    assert plain.usage is not None
    assert plain.usage.input_tokens == 7
    assert plain.usage.output_tokens == len(plain.text.split())
    given = await play(scripted({"text": "ok", "usage": {"input_tokens": 9, "cache_read_tokens": 4}}))
    assert given.usage == Usage(9, 1, 4)


@pytest.mark.parametrize(
    "script",
    [
        '[[sim {"text": 1}]]',
        '[[sim {"texd": "a"}]]',
        "[[sim {]]",
        '[[sim {"text": "a"} ]',
        "[[sim ",
        '[[sim [{"usage": {"input_tokens": "x"}}]]]',
        '[[sim {"tokens": 1e9}]]',
        '[[sim {"delay_ms": -1}]]',
    ],
)
async def test_an_invalid_script_is_reported(script: str) -> None:
    with pytest.raises(ModelError, match="script is invalid") as caught:
        await play(user(script))
    assert (caught.value.code, caught.value.transient) == ("invalid_model_request", False)


async def test_a_script_in_python_is_played_by_the_same_rule_and_requests_are_recorded() -> None:
    driver = SimulatedDriver([Step(tool_calls=()), {"text": "two"}])
    asked = user("Hi")
    await play(asked, driver=driver)
    assert (await play(asked, agent("one"), driver=driver)).text == "two"
    assert (await play(scripted({"text": "mine"}), driver=driver)).text == "mine"
    assert [len(request.messages) for request in driver.requests] == [1, 2, 1]
    quiet = SimulatedDriver()
    await play(asked, driver=quiet)
    assert quiet.requests == []


async def test_a_function_may_make_the_step() -> None:
    driver = SimulatedDriver(lambda request: {"text": f"{len(request.messages)} messages"})
    assert (await play(user("a"), agent("b"), driver=driver)).text == "2 messages"


async def test_cancelling_stops_it() -> None:
    running = asyncio.ensure_future(play(scripted({"tokens": 3, "first_ms": 60_000})))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_it_is_listed() -> None:
    assert [model.model_id for model in await SimulatedDriver().list_models()] == ["llmsim"]
