"""Every driver sends a history that the strictest server of its protocol accepts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.messages import ImagePart, Message, TextPart, ToolCallPart, ToolResultPart
from perdure.llm import adaptations
from perdure.llm.driver import ModelRequest, ProviderConfig
from perdure.llm.http import Http
from perdure.llm.registry import make_driver
from perdure.llm.wire import Reasoning, packed
from tests.conformance.drivers.conftest import Connect
from tests.conformance.drivers.converse import EVERY_WIRE
from tests.conformance.drivers.protocols import Wire
from tests.conformance.drivers.strict import complaints, unsigned
from tests.conformance.drivers.vendor import Reply, Vendor
from tests.unit.llm.talk import CLOCK, WEATHER, Heard, agent, ask, call, kept, result, system, user
from tests.unit.llm.test_encoding import REQUESTS

PNG = "iVBORw0KGgo="
PICTURE = ImagePart(base64=PNG, media_type="image/png")
SHOT = [{"type": "text", "text": "done"}, {"type": "image", "base64": PNG, "media_type": "image/png"}]
CHANGES = (
    adaptations.ALTERNATING_ROLES,
    adaptations.SHORT_CALL_IDS,
    adaptations.SYSTEM_AS_USER,
    adaptations.CALLS_WITHOUT_TEXT,
    adaptations.REASONING_WITH_CALLS,
    adaptations.REASONING_ALWAYS,
    adaptations.NO_REASONING,
)
LONG = "functions.look_up:" + "9" * 90


def odd_call(name: str, call_id: str = "c1", arguments: Any = None) -> tuple[Message, ...]:
    return (
        user("Go"),
        agent(ToolCallPart(call_id, name, {} if arguments is None else arguments)),
        result(call_id, "x"),
    )


HISTORIES: dict[str, tuple[Message, ...]] = {
    "nothing": (),
    "an empty answer": (user("a"), agent(""), user("b")),
    "an answer of reasoning": (user("a"), agent("", thinking="hm"), user("b")),
    "a blank answer": (user("a"), agent(" \n\t"), user("b")),
    "blank parts": (user("a", "  "), agent("b"), user(" ")),
    "a failed turn": (user("a"), user("b"), user("c", PICTURE), user(PICTURE), user("d")),
    "answers in a row": (user("a"), agent("b"), agent("c", call("c1")), result("c1", "x"), agent("d")),
    "it begins with an answer": (agent("Welcome. "), user("a")),
    "it begins with a call": (agent(call("c1")), result("c1", "x"), user("a")),
    "it ends with an answer": (user("a"), agent("b ")),
    "system messages in the middle": (
        user("a"),
        system("s"),
        agent("b"),
        system(" "),
        user("c"),
        system("t"),
    ),
    "a name with a dot": odd_call("multi_tool_use.parallel"),
    "no name": odd_call(""),
    "a name of 200 characters": odd_call("x" * 200),
    "a name in another script": odd_call("天気 ☀"),
    "a name that is half a character": odd_call("a\ud800"),
    "names that become alike": (*odd_call("a.b"), *odd_call("a b", "c2"), *odd_call("a_b", "c3")),
    "a long id": odd_call("clock", LONG),
    "no id": odd_call("clock", ""),
    "an id with other characters": odd_call("clock", "chatcmpl-tool/1 ☀\n"),
    "an id of nine": odd_call("clock", "D681PevKs"),
    "ids that count anew": (*odd_call("clock", "call_0"), agent("b"), *odd_call("clock", "call_0")),
    "arguments that are text": odd_call("clock", arguments='{"cut'),
    "arguments that are a list": odd_call("clock", arguments=[1, "\ud800", float("nan"), 1 << 80]),
    "no result": (user("a"), agent(call("c1"), call("c2")), result("c2", "y"), user("b")),
    "two results": (user("a"), agent(call("c1")), result("c1", "x"), result("c1", "y"), user("b")),
    "results in another order": (
        user("a"),
        agent(call("c1"), call("c2")),
        result("c2", "y"),
        user("hurry"),
        result("c1", "x"),
    ),
    "a result without a call": (user("a"), result("lost", "x"), agent("b"), user("c")),
    "empty results": (
        user("a"),
        agent(call("c1"), call("c2"), call("c3"), call("c4")),
        result("c1", ""),
        result("c2", " \n"),
        result("c3"),
        result("c4", None, ""),
    ),
    "steered during a tool": (user("a"), agent(call("c1")), user("in Paris"), result("c1", "x")),
    "steered twice": (
        user("a"),
        agent("look", call("c1")),
        result("c1", "x"),
        user("b"),
        system("s"),
        user("c"),
    ),
    "an image in a result": (user("a"), agent(call("c1"), call("c2")), result("c1", SHOT), result("c2", "y")),
    "an image in an error": (user("a"), agent(call("c1")), result("c1", SHOT, "half")),
    "only an image in a result": (user("a"), agent(call("c1")), result("c1", SHOT[1:]), user("b")),
    "an image with a wrong label": (user(ImagePart(base64="/9j/AAAA", media_type="image/png")),),
    "an image without a label": (user(ImagePart(url=f"data:;base64,{PNG}")),),
    "half characters": (user("a\ud800"), agent("\udc00b", call("c1", "clock", {"\ud800": "\udfff"}))),
    "an empty answer after a tool": (*odd_call("clock"), agent(""), user("b")),
    "only calls, without thinking": (*odd_call("clock"), agent("", thinking="x"), agent("b", call("c2"))),
}


@pytest.mark.parametrize("name", HISTORIES)
async def test_odd_histories_are_accepted(vendor: Vendor, connect: Connect, wire: Wire, name: str) -> None:
    for fields in (
        {"model": "model-1"},
        {"model": "mistral-large-latest", "tools": (WEATHER, CLOCK)},
        {"model": "claude-sonnet-4-5", "reasoning_effort": "high", "tools": (CLOCK,), "system": "S"},
        {"model": "kimi-k2-thinking", "system": " "},
        {"model": "gemini-3-pro", "system": "S"},
    ):
        vendor.will(Reply(wire.answer(["ok"])))
        await connect(wire.provider_type).generate(ask(*HISTORIES[name], **fields), Heard())
        mistral = fields["model"] == "mistral-large-latest"
        assert complaints(wire.provider_type, vendor.sent, mistral=mistral) == [], (name, fields)
        if wire.provider_type == "gemini":
            assert unsigned(vendor.sent) == [] or "gemini-3" not in fields["model"], name


def cleaned(history: Sequence[Message]) -> list[Message]:
    """Without what no driver can repair: parts that belong to other roles, and reasoning of unknown shape."""
    return [
        msgspec.structs.replace(
            message,
            content=tuple(part for part in message.content if fits(message.role, part)),
            reasoning_items=packed("m", [Reasoning({"type": "thinking", "thinking": "t", "signature": "s"})])
            if message.reasoning_items and message.reasoning_provider == "anthropic"
            else None,
        )
        for message in history
    ]


def fits(role: str, part: object) -> bool:
    return isinstance(part, TextPart | ImagePart) or (
        role == ("agent" if isinstance(part, ToolCallPart) else "tool_result")
        and isinstance(part, ToolCallPart | ToolResultPart)
    )


@pytest.mark.unmeasured  # the odd histories measure the same code
@given(request_=REQUESTS, mistral=st.booleans(), changes=st.sets(st.sampled_from(CHANGES)))
@pytest.mark.parametrize("provider_type", [wire.provider_type for wire in EVERY_WIRE])
def test_drawn_histories_are_accepted(
    pool: Http, provider_type: str, request_: ModelRequest, mistral: bool, changes: set[str]
) -> None:
    driver: Any = make_driver(ProviderConfig(provider_type, "http://h/v1"), pool)
    drawn = msgspec.structs.replace(
        request_,
        messages=cleaned(request_.messages),
        tools=request_.tools[:1],
        model="ministral-8b" if mistral else request_.model,
        changes=frozenset(changes),
    )
    body = msgspec.json.decode(driver.encoded(drawn))
    assert complaints(provider_type, body, mistral=mistral) == []


@pytest.fixture(scope="module", name="pool")
def _pool() -> Http:
    return Http()


@pytest.mark.parametrize("first", EVERY_WIRE, ids=lambda wire: wire.provider_type)
async def test_every_switch_of_vendor_is_accepted(
    vendor: Vendor, connect: Connect, wire: Wire, first: Wire
) -> None:
    """A session that thought and called tools with one vendor goes on with another."""
    other = first.provider_type
    history: list[Message] = [user("a", PICTURE)]
    for number, call_id in enumerate(("functions.weather:0", "x" * 64)):
        vendor.will(
            Reply(first.answer(["I look."], [(call_id, "weather", ['{"city":"Rome"}'])], thinking=["hm"])),
        )
        response = await connect(other).generate(ask(*history, tools=(WEATHER,)), Heard())
        history += [kept(response, other), result(call_id, SHOT if number else "sunny")]
    history.append(user("And now?"))
    for model in ("model-1", "magistral-small", "deepseek-reasoner", "claude-opus-4-1", "gemini-3-pro"):
        vendor.will(Reply(wire.answer(["ok"])))
        request = ask(*history, model=model, reasoning_effort="high")
        await connect(wire.provider_type).generate(request, Heard())
        mistral = model == "magistral-small"
        assert complaints(wire.provider_type, vendor.sent, mistral=mistral) == [], model
        if (wire.provider_type, model) == ("gemini", "gemini-3-pro"):
            assert unsigned(vendor.sent) == []
