"""Chat Completions to servers that want their own form of a history."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from perdure.domain.messages import ImagePart
from perdure.llm import adaptations
from perdure.llm.http import Http
from tests.conformance.drivers.conftest import Connect
from tests.conformance.drivers.test_openai_chat import PNG, driver_at, sent
from tests.conformance.drivers.vendor import Vendor
from tests.unit.llm.talk import agent, ask, call, result, system, user


async def test_openai_gets_system_messages_in_the_middle_as_such(http: Http) -> None:
    driver = driver_at("https://api.openai.com/v1", http)
    body = msgspec.json.decode(driver.encoded(ask(user("Hi"), system("Be brief."), user("So?"))))
    assert [message["role"] for message in body["messages"]] == ["user", "system", "user"]


async def test_an_images_data_decide_its_media_type(http: Http) -> None:
    body = driver_at("http://h", http).encoded(ask(user(ImagePart(base64=PNG, media_type="image/jpeg"))))
    assert b"data:image/png;base64," in body


async def test_adjacent_messages_of_one_author_become_one(vendor: Vendor, connect: Connect) -> None:
    picture = ImagePart(base64=PNG)
    body = await sent(
        vendor, connect, user("a"), user("b"), agent("c"), agent("d", call("c1")), result("c1", "x")
    )
    assert body["messages"][0] == {"role": "user", "content": "a\n\nb"}
    assert body["messages"][1]["content"] == "c\n\nd"
    assert body["messages"][1]["tool_calls"][0]["id"] == "c1"
    body = await sent(vendor, connect, user("a"), user("b", picture), user('c\u2028"\\'))
    assert [part.get("text") for part in body["messages"][0]["content"]] == ["a", "b", None, 'c\u2028"\\']


@pytest.mark.parametrize(
    ("base", "model", "returned"),
    [
        ("https://api.deepseek.com", "any", True),
        ("https://api.moonshot.cn/v1", "any", True),
        ("https://api.moonshot.ai/v1", "any", True),
        ("https://api.xiaomimimo.com/v1", "any", True),
        ("http://10.0.0.1:8000", "moonshotai/Kimi-K2-Thinking", True),
        ("http://10.0.0.1:8000", "deepseek-v3.2", True),
        ("https://api.groq.com/openai/v1", "moonshotai/kimi-k2-instruct", False),
        ("https://api.openai.com/v1", "gpt-5", False),
        ("http://10.0.0.1:8000", "qwen3", False),
    ],
)
async def test_thinking_is_sent_back_to_servers_that_are_known_to_want_it(
    http: Http, base: str, model: str, returned: bool
) -> None:
    history = (user("Hi"), agent(call("c"), thinking="hm"), result("c"))
    body = driver_at(base, http).encoded(ask(*history, model=model))
    assert (b'"reasoning_content":"hm"' in body) is returned
    option = driver_at(base, http, reasoning_content=not returned)
    assert (b'"reasoning_content":"hm"' in option.encoded(ask(*history, model=model))) is not returned


@pytest.mark.parametrize(
    ("base", "model", "mistral"),
    [
        ("https://api.mistral.ai/v1", "any", True),
        ("http://10.0.0.1:8000", "mistralai/Devstral-Small-2-24B", True),
        ("http://10.0.0.1:8000", "mixtral-8x7b", True),
        ("http://10.0.0.1:8000", "magistral-medium", True),
        ("https://api.openai.com/v1", "gpt-5", False),
    ],
)
async def test_mistral_gets_short_ids_and_an_answer_before_the_next_user_message(
    http: Http, base: str, model: str, mistral: bool
) -> None:
    history = (user("Hi"), agent(call("call_abc")), result("call_abc", "x"), user("hurry"))
    body = msgspec.json.decode(driver_at(base, http).encoded(ask(*history, model=model)))
    roles = [message["role"] for message in body["messages"]]
    assert roles == ["user", "assistant", "tool", *(["assistant"] if mistral else []), "user"]
    identity = body["messages"][1]["tool_calls"][0]["id"]
    assert identity == body["messages"][2]["tool_call_id"]
    assert (identity == "call_abc") is not mistral
    assert len(identity) == (9 if mistral else 8)


async def test_changes_that_a_server_asked_for_are_made(http: Http) -> None:
    history = (
        user("Hi"),
        agent("Look.", call("call_abc"), thinking="hm"),
        result("call_abc", "x"),
        agent("So.", thinking="ah"),
        user("b"),
    )

    def body(*changes: str) -> Any:
        request = ask(*history, system="S", changes=frozenset(changes))
        return msgspec.json.decode(driver_at("http://h", http).encoded(request))["messages"]

    assert body(adaptations.SYSTEM_AS_USER)[0] == {"role": "user", "content": "S\n\nHi"}
    assert body(adaptations.CALLS_WITHOUT_TEXT)[2]["content"] is None
    assert len(body(adaptations.SHORT_CALL_IDS)[2]["tool_calls"][0]["id"]) == 9
    reasons = [
        [message.get("reasoning_content") for message in body(change) if message["role"] == "assistant"]
        for change in (adaptations.REASONING_WITH_CALLS, adaptations.REASONING_ALWAYS)
    ]
    assert reasons == [["hm", None], ["hm", "ah"]]
