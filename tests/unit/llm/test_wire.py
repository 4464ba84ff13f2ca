"""The cache of encoded messages, the order of a history, and single values on the wire."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.messages import ImagePart, Message, TextPart, ToolResultPart
from perdure.llm.driver import ProviderConfig, ToolSpec
from perdure.llm.fragment_cache import FragmentCache, ToolCache
from perdure.llm.http import Http
from perdure.llm.openai_chat import OpenAiChatDriver
from perdure.llm.openai_chat_wire import Form, missing, turns
from perdure.llm.wire import (
    Fragment,
    Reasoning,
    alternating,
    arranged,
    dumps,
    packed,
    plain_id,
    plain_name,
    result_content,
    result_fragment,
    reuses_ids,
    unpacked,
    woven,
)
from tests.unit.llm.talk import CLOCK, WEATHER, agent, ask, call, user


class Encoder:
    """Counts its calls."""

    def __init__(self) -> None:
        self.work = 0

    def __call__(self, message: Message) -> Fragment:
        self.work += 1
        return Fragment("user", dumps([part.text for part in message.content if isinstance(part, TextPart)]))


def test_a_message_is_encoded_once() -> None:
    cache, encode = FragmentCache(), Encoder()
    messages = [user(f"m{number}") for number in range(50)]
    first = cache.fragments("x", messages, encode)
    assert cache.fragments("x", messages, encode) == first
    assert encode.work == 50
    cache.fragments("another variant", messages, encode)
    assert encode.work == 100


def test_an_equal_copy_is_a_cache_hit_and_a_changed_message_is_not() -> None:
    cache, encode = FragmentCache(), Encoder()
    message = agent("long text")
    cache.fragments("x", [message], encode)
    copy = msgspec.json.decode(msgspec.json.encode(message), type=Message)
    cache.fragments("x", [copy], encode)
    assert encode.work == 1
    short = msgspec.structs.replace(message, content=(TextPart("short"),))
    assert cache.fragments("x", [short], encode)[0].data == b'["short"]'
    assert cache.fragments("x", [message], encode)[0].data == b'["long text"]'
    with_items = msgspec.structs.replace(message, reasoning_items=({"a": 1},))
    cache.fragments("x", [with_items], encode)
    assert encode.work == 4


def test_the_cache_stays_within_its_limit_and_keeps_recent_entries() -> None:
    cache, encode = FragmentCache(100_000), Encoder()
    favourite = user("favourite")
    for number in range(2_000):
        cache.fragments("x", [user(f"{number}" * 10), favourite], encode)
        assert cache.size <= 100_000
    assert encode.work == 2_001


def test_a_message_larger_than_the_cache_is_encoded_all_the_same() -> None:
    cache, encode = FragmentCache(1_000), Encoder()
    assert len(cache.fragments("x", [user("x" * 5_000)], encode)[0].data) > 5_000
    assert cache.size == 0


def test_tools_are_encoded_once() -> None:
    work: list[int] = []

    def encode(tools: Any) -> bytes:
        work.append(1)
        return dumps([tool.name for tool in tools])

    cache = ToolCache(encode)
    tools = (WEATHER, CLOCK)
    assert (
        cache.encoded(tools)
        == cache.encoded(tuple(tools))
        == cache.encoded((WEATHER, ToolSpec(*astuple(CLOCK))))
    )
    assert len(work) == 1
    for number in range(20):
        cache.encoded((ToolSpec(f"t{number}", "", {}),))
    assert len(cache._entries) == 8


def astuple(tool: ToolSpec) -> Any:
    return msgspec.structs.astuple(tool)


PIECES = st.lists(
    st.one_of(
        st.tuples(st.just("agent"), st.lists(st.sampled_from("abcd"), max_size=3, unique=True)),
        st.tuples(st.just("result"), st.lists(st.sampled_from("abcd"), min_size=1, max_size=2, unique=True)),
        st.tuples(st.sampled_from(["user", "system"]), st.just([])),
    ),
    max_size=20,
)


def fragments_of(pieces: list[tuple[str, list[str]]]) -> list[Fragment]:
    return [
        Fragment("assistant", b"a", calls=tuple(ids))
        if kind == "agent"
        else result_fragment([(one, b"r") for one in ids])
        if kind == "result"
        else Fragment("system" if kind == "system" else "user", b"u")
        for kind, ids in pieces
    ]


PLAIN = st.integers(0, 6).map(lambda more: [("user", []), *([("agent", []), ("user", [])] * more)])


@given(st.one_of(PIECES, PLAIN))
def test_a_conversation_that_needs_no_arranging_is_sent_as_it_is(pieces: list[tuple[str, list[str]]]) -> None:
    fragments = fragments_of(pieces)
    values = alternating(fragments)
    if [kind for kind, _ in pieces] == ["user"]:
        assert values == [b"u"]
    if values is not None:
        form = Form("m", takes_turns=True)
        assert values == turns(arranged(fragments, lambda call_id: missing(call_id, form)), form)
        assert not reuses_ids(fragments)
    assert alternating([*fragments, Fragment("user", b"")]) is None


@given(PIECES)
def test_results_follow_their_calls_directly(pieces: list[tuple[str, list[str]]]) -> None:
    fragments = fragments_of(pieces)
    out = arranged(fragments, lambda missing: Fragment("user", b"m", answers=(missing,)))
    waiting: set[str] = set()
    for fragment in out:
        if waiting:
            assert fragment.answers
        else:
            assert not fragment.answers or fragment.data == b"r"
        waiting -= set(fragment.answers)
        waiting |= set(fragment.calls)
    assert not waiting
    for data in (b"a", b"u"):
        assert sum(part.data == data for part in out) == sum(part.data == data for part in fragments)


@given(
    text=st.text(max_size=20),
    calls=st.integers(0, 4),
    places=st.lists(st.tuples(st.integers(0, 25), st.integers(0, 5)), max_size=5),
)
def test_reasoning_in_a_message_loses_neither_text_nor_calls(
    text: str, calls: int, places: list[tuple[int, int]]
) -> None:
    message = agent(text, *(call(f"c{number}") for number in range(calls)))
    blocks = [Reasoning({"n": number}, *place) for number, place in enumerate(sorted(places))]
    pieces = woven(message, blocks)
    assert "".join(piece for piece in pieces if isinstance(piece, str)) == text
    assert [piece.id for piece in pieces if not isinstance(piece, str | dict)] == [
        f"c{n}" for n in range(calls)
    ]
    assert not pieces or not isinstance(pieces[-1], dict)


def test_reasoning_without_a_header_comes_first() -> None:
    message = msgspec.structs.replace(agent("x"), reasoning_provider="p", reasoning_items=({"type": "old"},))
    assert unpacked(message, "p", "any") == [Reasoning({"type": "old"})]
    assert packed("m", []) == ()


def test_values_that_json_cannot_hold_are_replaced() -> None:
    value = {
        "a": "\ud800x",
        "b": [1 << 70, float("nan"), {1, 2}],
        3: object,
        "c": CLOCK,
        "d": True,
        "e": -5,
        "f": None,
    }
    back = msgspec.json.decode(dumps(value))
    assert back["a"] == "?x"
    assert back["b"][1] is None
    assert back["c"]["name"] == "clock"
    assert (back["d"], back["e"], back["f"]) == (True, -5, None)


def test_results_are_sent_as_text() -> None:
    assert result_content(ToolResultPart("c", "plain")) == ("plain", [])
    assert result_content(ToolResultPart("c", [1, "ü"])) == ('[1,"ü"]', [])
    assert result_content(ToolResultPart("c", [])) == ("[]", [])
    assert (
        result_content(ToolResultPart("c", [{"type": "text", "text": "a"}]))[0]
        == '[{"type":"text","text":"a"}]'
    )
    assert result_content(ToolResultPart("c")) == ("", [])


def test_images_in_a_result_are_images() -> None:
    assert result_content(ToolResultPart("c", [{"type": "image", "url": 7}])) == (
        '[{"type":"image","url":7}]',
        [],
    )
    parts = [
        {"type": "text", "text": "a"},
        {"type": "image", "base64": "iVBORw0KGgo="},
        {"type": "text", "text": "b"},
    ]
    assert result_content(ToolResultPart("c", parts, "half")) == (
        "Error: half\na\nb",
        [ImagePart(base64="iVBORw0KGgo=")],
    )


@given(st.text(max_size=100))
def test_ids_and_names_are_always_acceptable(text: str) -> None:
    assert plain_id(text) == plain_id(text)
    for fitted in (plain_id(text), plain_name(text)):
        assert 0 < len(fitted) <= 64
        assert all(sign.isascii() and (sign.isalnum() or sign in "_-") for sign in fitted)


async def test_a_shortened_result_is_sent_shortened() -> None:
    """The engine may shorten old results: the message keeps its id."""
    driver = OpenAiChatDriver(ProviderConfig("openai_completions"), Http(), FragmentCache())
    message = user("a very long text")
    assert b"a very long text" in driver.encoded(ask(message))
    assert b"a very long text" not in driver.encoded(
        ask(msgspec.structs.replace(message, content=(TextPart("short"),)))
    )
