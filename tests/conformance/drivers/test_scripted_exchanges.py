"""What every protocol driver does, against a vendor that plays scripted answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.domain.errors import ModelError
from perdure.domain.messages import Usage
from perdure.llm.driver import ProviderConfig
from perdure.llm.http import Http
from perdure.llm.registry import make_driver
from tests.conformance.drivers.conftest import API_KEY, Connect
from tests.conformance.drivers.protocols import Wire, sse
from tests.conformance.drivers.vendor import JSON, SSE, Reply, Vendor
from tests.unit.llm.talk import CLOCK, WEATHER, Heard, ask, user

KEY_HEADERS = ("authorization", "x-api-key", "x-goog-api-key")
PLAIN = {"Content-Type": "text/plain"}


async def test_text_arrives_piece_by_piece_and_whole(vendor: Vendor, connect: Connect, wire: Wire) -> None:
    vendor.will(Reply(wire.answer(["Hel", "lo", " there"])))
    heard = Heard()
    response = await connect(wire.provider_type).generate(ask(user("Hi")), heard)
    assert heard.pieces("text") == ["Hel", "lo", " there"]
    assert response.text == "Hello there"
    assert response.finish_reason == "stop"
    if wire.provider_type != "bedrock":  # it names neither
        assert response.model == "model-1"
        assert response.response_id
    assert response.thinking is None
    assert response.reasoning_items == ()


async def test_the_call_streams_to_the_right_address_with_the_key(
    vendor: Vendor, connect: Connect, wire: Wire
) -> None:
    vendor.will(Reply(wire.answer(["ok"])))
    await connect(wire.provider_type).generate(ask(user("Hi")), Heard())
    asked = vendor.asked[0]
    assert (asked.method, asked.path) == ("POST", wire.path)
    if wire.provider_type in {"gemini", "bedrock"}:  # the path says both
        assert asked.query == ({"alt": "sse"} if wire.provider_type == "gemini" else {})
    else:
        assert asked.body["stream"] is True
        assert asked.body["model"] == "model-1"
    assert API_KEY in {asked.headers.get(name, "").removeprefix("Bearer ") for name in KEY_HEADERS}
    assert asked.headers["content-type"] == "application/json"


async def test_all_input_is_counted_including_the_cached_part(
    vendor: Vendor, connect: Connect, wire: Wire
) -> None:
    vendor.will(Reply(wire.answer(["ok"])))
    response = await connect(wire.provider_type).generate(ask(user("Hi")), Heard())
    assert response.usage is not None
    assert response.usage.input_tokens == 100
    assert response.usage.output_tokens == 7
    assert response.usage.cache_read_tokens == 60
    assert response.usage.cache_creation_tokens == (
        10 if wire.provider_type in {"anthropic", "bedrock"} else None
    )


async def test_events_may_be_split_anywhere_or_arrive_together(
    vendor: Vendor, connect: Connect, wire: Wire
) -> None:
    stream = b"".join(wire.answer(["Grüße ", "🌍"], [("call_1", "weather", ['{"city":', ' "Zürich"}'])]))
    driver = connect(wire.provider_type)
    for size in (1, 7, 64, len(stream)):
        vendor.will(Reply([stream[at : at + size] for at in range(0, len(stream), size)]))
        response = await driver.generate(ask(user("Hi"), tools=(WEATHER,)), Heard())
        assert response.text == "Grüße 🌍"
        assert response.tool_calls[0].arguments == {"city": "Zürich"}


async def test_lines_may_end_with_carriage_returns_and_comments_are_skipped(
    vendor: Vendor, connect: Connect, sse_wire: Wire
) -> None:
    stream = b": hello\n\n" + b": ping\n\n".join(sse_wire.answer(["a", "b"]))
    vendor.will(Reply([stream.replace(b"\n", b"\r\n")]))
    assert (await connect(sse_wire.provider_type).generate(ask(user("Hi")), Heard())).text == "ab"


async def test_parallel_tool_calls_keep_their_order_ids_and_split_arguments(
    vendor: Vendor, connect: Connect, wire: Wire
) -> None:
    calls = [
        ("call_a", "weather", ['{"ci', 'ty": "Ro', 'me"}']),
        ("call_b", "clock", []),
        ("call_c", "weather", ['{"city": "Oslo"}']),
    ]
    vendor.will(Reply(wire.answer(["Let me see."], calls)))
    response = await connect(wire.provider_type).generate(ask(user("Hi"), tools=(WEATHER, CLOCK)), Heard())
    assert [(call.id, call.name, call.arguments) for call in response.tool_calls] == [
        ("call_a", "weather", {"city": "Rome"}),
        ("call_b", "clock", {}),
        ("call_c", "weather", {"city": "Oslo"}),
    ]
    assert response.text == "Let me see."
    assert response.finish_reason == "tool_calls"


async def test_arguments_that_are_not_json_are_kept_as_text(
    vendor: Vendor, connect: Connect, wire: Wire
) -> None:
    vendor.will(Reply(wire.answer(calls=[("call_a", "weather", ['{"city": "Ro'])])))
    response = await connect(wire.provider_type).generate(ask(user("Hi"), tools=(WEATHER,)), Heard())
    assert response.tool_calls[0].arguments == '{"city": "Ro'


async def test_calls_without_ids_or_with_repeated_ids_get_unique_ones(
    vendor: Vendor, connect: Connect, wire: Wire
) -> None:
    vendor.will(Reply(wire.answer(calls=[(one, "clock", ["{}"]) for one in ("", "", "same", "same")])))
    response = await connect(wire.provider_type).generate(ask(user("Hi"), tools=(CLOCK,)), Heard())
    ids = [call.id for call in response.tool_calls]
    assert len(set(ids)) == 4
    assert all(ids)
    assert "same" in ids


async def test_nul_characters_become_replacement_characters(
    vendor: Vendor, connect: Connect, wire: Wire
) -> None:
    calls = [("call_a", "weather", ['{"city": "a\\u0000b"}'])]
    vendor.will(Reply(wire.answer(["a\x00b"], calls, thinking=["t\x00"])))
    heard = Heard()
    response = await connect(wire.provider_type).generate(ask(user("Hi"), tools=(WEATHER,)), heard)
    assert response.text == heard.joined("text") == "a\ufffdb"
    assert response.thinking == heard.joined("thinking") == "t\ufffd"
    assert response.tool_calls[0].arguments == {"city": "a\ufffdb"}


async def test_thinking_is_emitted_separately_from_the_text(
    vendor: Vendor, connect: Connect, wire: Wire
) -> None:
    vendor.will(Reply(wire.answer(["42"], thinking=["Hm, ", "well."])))
    heard = Heard()
    response = await connect(wire.provider_type).generate(ask(user("Hi"), reasoning_effort="low"), heard)
    assert heard.deltas == [("thinking", "Hm, "), ("thinking", "well."), ("text", "42")]
    assert response.thinking == "Hm, well."
    assert response.text == "42"


@pytest.mark.parametrize("finish", ["stop", "length", "content_filter"])
async def test_the_finish_reason_is_the_same_for_all_vendors(
    vendor: Vendor, connect: Connect, wire: Wire, finish: str
) -> None:
    vendor.will(Reply(wire.answer(["ok"], finish=finish)))
    assert (await connect(wire.provider_type).generate(ask(user("Hi")), Heard())).finish_reason == finish


async def test_a_connection_is_reused_after_a_complete_answer(
    vendor: Vendor, connect: Connect, wire: Wire, http: Http
) -> None:
    driver = connect(wire.provider_type)
    for _ in range(3):
        vendor.will(Reply(wire.answer(["ok"])))
        await driver.generate(ask(user("Hi")), Heard())
    connector = http._session().connector
    assert connector is not None
    assert sum(len(idle) for idle in connector._conns.values()) == 1


async def test_cancelling_closes_the_connection_at_once(vendor: Vendor, connect: Connect, wire: Wire) -> None:
    events = wire.answer(["Hel", "lo"])
    vendor.will(Reply(events[:-3], then="hang"))
    call = asyncio.ensure_future(connect(wire.provider_type).generate(ask(user("Hi")), Heard()))
    await asyncio.wait_for(vendor.reached.wait(), 5)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.wait_for(vendor.left.wait(), 5)


async def test_cancelling_before_the_first_byte_closes_the_connection_too(
    vendor: Vendor, connect: Connect, wire: Wire
) -> None:
    vendor.will(Reply(before="hang"))
    call = asyncio.ensure_future(connect(wire.provider_type).generate(ask(user("Hi")), Heard()))
    await asyncio.wait_for(vendor.reached.wait(), 5)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.wait_for(vendor.left.wait(), 5)


# --- what goes wrong -----------------------------------------------------------


async def failed(connect: Connect, wire: Wire, heard: Heard | None = None, **fields: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        await connect(wire.provider_type, **fields).generate(ask(user("Hi")), heard or Heard())
    assert API_KEY not in str(caught.value)
    assert len(caught.value.message) <= 500
    return caught.value


@pytest.mark.parametrize("after", [0, 1, 3])
async def test_a_stream_cut_in_the_middle_is_a_transient_error(
    vendor: Vendor, connect: Connect, wire: Wire, after: int
) -> None:
    vendor.will(Reply(wire.answer(["Hel", "lo"])[:after], then="cut"))
    error = await failed(connect, wire)
    assert (error.code, error.transient) == ("provider_bad_response", True)


async def test_a_stream_that_ends_cleanly_but_too_early_is_a_transient_error(
    vendor: Vendor, connect: Connect, wire: Wire
) -> None:
    heard = Heard()
    vendor.will(Reply(wire.answer(["Hel", "lo"])[:3]))
    error = await failed(connect, wire, heard)
    assert (error.code, error.transient) == ("provider_bad_response", True)
    assert "before the answer was complete" in error.message


@pytest.mark.parametrize(
    "garbage",
    [
        b"data: {nonsense\n\n",
        b"data: \xff\xfe\n\n",
        b"data: [1, 2]\n\n",
        b'data: {"usage": ' + b"[" * 90000 + b"\n\n",
        b'data: {"usage":' + b"[" * 9000 + b"]" * 9000 + b"}\n\n",
        b"data: " + b"[" * 9000 + b"\n\n",
    ],
)
async def test_garbage_costs_one_call_and_is_quoted(
    vendor: Vendor, connect: Connect, sse_wire: Wire, garbage: bytes
) -> None:
    vendor.will(Reply([*sse_wire.answer(["Hel"])[:2], garbage]))
    error = await failed(connect, sse_wire)
    assert (error.code, error.transient) == ("provider_bad_response", False)
    assert garbage[6:20].decode("utf-8", "replace").strip() in error.message


async def test_an_event_that_is_cut_is_a_transient_error(
    vendor: Vendor, connect: Connect, sse_wire: Wire
) -> None:
    for rest in (b"\x00" * 99, b'data: {"choices": [{"del', b"da", b"event: error"):
        vendor.will(Reply([*sse_wire.answer(["Hel"])[:2], rest]))
        error = await failed(connect, sse_wire)
        assert (error.code, error.transient) == ("provider_bad_response", True)


async def test_a_web_page_instead_of_a_stream_costs_one_call(
    vendor: Vendor, connect: Connect, wire: Wire
) -> None:
    page = b"<html><head><title>Gateway</title><style>x{}</style></head><body>Be right back</body></html>"
    vendor.will(Reply([page], headers={"Content-Type": "text/html"}))
    error = await failed(connect, wire)
    assert (error.code, error.transient) == ("provider_bad_response", False)
    assert "Be right back" in error.message
    assert f"{vendor.url}{wire.path}" in error.message
    assert "<" not in error.message


async def test_an_error_object_with_a_success_status_is_an_error(
    vendor: Vendor, connect: Connect, wire: Wire
) -> None:
    vendor.will(Reply([wire.refusal("rate_limit", "slow down")], headers=JSON))
    error = await failed(connect, wire)
    assert (error.code, error.transient) == ("provider_rate_limited", True)


async def test_json_that_is_no_answer_costs_one_call(vendor: Vendor, connect: Connect, wire: Wire) -> None:
    vendor.will(Reply([b'{"id": "x", "choices": []}'], headers=JSON))
    error = await failed(connect, wire)
    assert (error.code, error.transient) == ("provider_bad_response", False)
    assert "instead of a stream" in error.message
    assert "choices" in error.message


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream", "text/plain"])
async def test_a_whole_answer_instead_of_a_stream_is_understood(
    vendor: Vendor, connect: Connect, wire: Wire, kind: str
) -> None:
    body = wire.whole("Hello", ("c1", "weather", {"city": "Rome"}))
    vendor.will(Reply([b"\n\n", body[:20], body[20:]], headers={"Content-Type": kind}))
    heard = Heard()
    response = await connect(wire.provider_type).generate(ask(user("Hi"), tools=(WEATHER,)), heard)
    assert response.text == heard.joined("text") == "Hello"
    assert [(call.id, call.arguments) for call in response.tool_calls] == [("c1", {"city": "Rome"})]
    assert response.usage is not None
    assert response.usage.input_tokens == 5


@pytest.mark.parametrize("kind", ["application/json", "text/html", "application/octet-stream"])
async def test_a_stream_with_another_label_is_understood(
    vendor: Vendor, connect: Connect, wire: Wire, kind: str
) -> None:
    vendor.will(Reply(wire.answer(["Hel", "lo"]), headers={"Content-Type": kind}))
    assert (await connect(wire.provider_type).generate(ask(user("Hi")), Heard())).text == "Hello"


async def test_a_complete_answer_is_kept_if_the_connection_breaks_after_it(
    vendor: Vendor, connect: Connect, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The answers are complete with their last event but one (Responses, Gemini: with the last).
    events = wire.answer(["Hel", "lo"])
    kept = events if wire.provider_type in {"openai", "gemini"} else events[:-1]
    vendor.will(Reply(kept, then="cut"))
    response = await connect(wire.provider_type).generate(ask(user("Hi")), Heard())
    assert (response.text, response.finish_reason) == ("Hello", "stop")
    monkeypatch.setattr("perdure.llm.http._TAIL_TIMEOUT", 0.05)
    vendor.will(Reply(kept, then="hang"))
    assert (await connect(wire.provider_type).generate(ask(user("Hi")), Heard())).text == "Hello"


async def test_an_address_that_the_server_does_not_have_is_tried_in_its_other_form(
    vendor: Vendor, http: Http, sse_wire: Wire
) -> None:
    driver = make_driver(ProviderConfig(sse_wire.provider_type, f"{vendor.url}/inference", API_KEY), http)
    unknown = Reply([b'{"detail":"Not Found"}'], 404, JSON)
    vendor.will(unknown, *[Reply(sse_wire.answer(["ok"]))] * 2)
    for _ in range(2):
        assert (await driver.generate(ask(user("Hi")), Heard())).text == "ok"
    first, second, third = (asked.path for asked in vendor.asked)
    version = "/v1beta" if sse_wire.provider_type == "gemini" else "/v1"
    tail = sse_wire.path.removeprefix("/v1")
    assert {first, second} == {f"/inference{version}{tail}", f"/inference{tail}"}
    assert third == second
    vendor.will(unknown, unknown)
    with pytest.raises(ModelError) as caught:
        await driver.generate(ask(user("Hi")), Heard())
    assert (caught.value.code, caught.value.transient) == ("provider_misconfigured", False)
    assert f"{vendor.url}{second}" in caught.value.message


async def test_a_model_that_the_server_does_not_have_is_told_from_a_wrong_address(
    vendor: Vendor, connect: Connect, wire: Wire
) -> None:
    vendor.will(Reply([b'{"error":{"message":"The model `x` does not exist"}}'], 404, JSON))
    assert (await failed(connect, wire)).code == "model_not_found"
    success = Reply([b'{"error":"Unexpected endpoint or method. (POST /v1/x)"}'], 200, JSON)
    for reply in (Reply([b"404 page not found"], 404, PLAIN), success):
        vendor.will(reply)
        error = await failed(connect, wire)
        assert (error.code, error.transient) == ("provider_misconfigured", False)
        assert f"{vendor.url}{wire.path}" in error.message


@pytest.mark.parametrize(
    ("words", "transient"), [(b"no stream here", False), (b"upstream connect error", True)]
)
async def test_plain_words_in_place_of_a_stream_are_quoted(
    vendor: Vendor, connect: Connect, wire: Wire, words: bytes, transient: bool
) -> None:
    vendor.will(Reply([words], 200, PLAIN))
    error = await failed(connect, wire)
    assert (words.decode() in error.message, error.transient) == (True, transient)


async def test_a_compression_that_nobody_asked_for_is_named(
    vendor: Vendor, connect: Connect, wire: Wire
) -> None:
    vendor.will(Reply([b"\x28\xb5\x2f\xfd"], 200, {**JSON, "Content-Encoding": "zstd"}))
    error = await failed(connect, wire)
    assert (error.code, error.transient) == ("provider_bad_response", False)
    assert "zstd" in error.message
    assert "install" not in error.message


async def test_headers_of_many_kilobytes_are_read(vendor: Vendor, connect: Connect, wire: Wire) -> None:
    headers = {"Content-Type": "text/event-stream", "Content-Security-Policy": "x" * 20_000}
    vendor.will(Reply(wire.answer(["ok"]), 200, headers))
    assert (await connect(wire.provider_type).generate(ask(user("Hi")), Heard())).text == "ok"


async def test_an_answer_that_is_not_http_costs_one_call(http: Http, wire: Wire) -> None:
    calls = 0

    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        writer.close()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        driver = make_driver(ProviderConfig(wire.provider_type, url, API_KEY), http)
        with pytest.raises(ModelError) as caught:
            await driver.generate(ask(user("Hi")), Heard())
    assert (caught.value.code, caught.value.transient, calls) == ("provider_bad_response", False, 1)
    assert "SSH-2.0" in caught.value.message


@pytest.mark.parametrize("piece", [b"data: " + b"x" * 5000, b"x" * 6000])
async def test_an_endless_line_is_cut_off(vendor: Vendor, connect: Connect, wire: Wire, piece: bytes) -> None:
    pool = Http(max_event=4096)
    vendor.will(Reply([piece] * 4, then="hang"))
    error = await failed(connect, wire, pool=pool)
    await pool.close()
    assert (error.code, error.transient) == ("provider_bad_response", False)


async def test_an_endless_answer_is_cut_off(vendor: Vendor, connect: Connect, sse_wire: Wire) -> None:
    pool = Http(max_stream=20_000)
    vendor.will(Reply([b": ping\n\n" * 1000] * 5, then="hang"))
    error = await failed(connect, sse_wire, pool=pool)
    await pool.close()
    assert (error.code, error.transient) == ("provider_bad_response", False)


@pytest.mark.parametrize(
    ("kind", "code", "transient"),
    [
        ("overloaded", "provider_unavailable", True),
        ("rate_limit", "provider_rate_limited", True),
        ("context", "context_length_exceeded", False),
    ],
)
async def test_errors_inside_the_stream_are_classified(
    vendor: Vendor, connect: Connect, wire: Wire, kind: str, code: str, transient: bool
) -> None:
    events = wire.answer(["Hel", "lo"])
    vendor.will(Reply([*events[:3], wire.failure(kind, f"no more, {API_KEY}")]))
    error = await failed(connect, wire)
    assert (error.code, error.transient) == (code, transient)
    assert "no more" in error.message


async def test_silence_in_the_middle_is_a_timeout(vendor: Vendor, connect: Connect, wire: Wire) -> None:
    pool = Http(read_timeout=0.2)
    vendor.will(Reply(wire.answer(["Hel", "lo"])[:3], then="hang"))
    error = await failed(connect, wire, pool=pool)
    await pool.close()
    assert (error.code, error.transient) == ("provider_timeout", True)


async def test_silence_before_the_first_byte_is_a_timeout(
    vendor: Vendor, connect: Connect, wire: Wire
) -> None:
    pool = Http(read_timeout=0.2)
    vendor.will(Reply(before="hang"))
    error = await failed(connect, wire, pool=pool)
    await pool.close()
    assert (error.code, error.transient) == ("provider_timeout", True)


async def test_a_connection_reset_before_the_answer_is_retried_once_on_a_new_one(
    vendor: Vendor, connect: Connect, wire: Wire
) -> None:
    vendor.will(Reply(before="cut"), Reply(wire.answer(["ok"])))
    assert (await connect(wire.provider_type).generate(ask(user("Hi")), Heard())).text == "ok"
    vendor.will(Reply(before="cut"), Reply(before="cut"))
    error = await failed(connect, wire)
    assert (error.code, error.transient) == ("provider_unavailable", True)
    assert len(vendor.asked) == 4


async def test_bytes_after_the_end_of_the_answer_are_not_waited_for(
    vendor: Vendor, connect: Connect, wire: Wire
) -> None:
    vendor.will(Reply(wire.answer(["ok"]), then="hang"))
    response = await asyncio.wait_for(connect(wire.provider_type).generate(ask(user("Hi")), Heard()), 3)
    assert response.text == "ok"


async def test_redirects_are_not_followed(vendor: Vendor, connect: Connect, wire: Wire) -> None:
    vendor.will(Reply(status=307, headers={"Location": f"{vendor.url}/elsewhere"}))
    error = await failed(connect, wire)
    assert (error.code, error.transient, error.status) == ("provider_bad_response", False, 307)
    assert len(vendor.asked) == 1


async def test_unknown_events_and_fields_are_ignored(
    vendor: Vendor, connect: Connect, sse_wire: Wire
) -> None:
    odd = sse({"type": "something.new", "object": "odd", "strange": {"deep": [1]}, "choices": []})
    events = sse_wire.answer(["a", "b"])
    vendor.will(Reply([odd, *events[:3], odd, *events[3:]]))
    assert (await connect(sse_wire.provider_type).generate(ask(user("Hi")), Heard())).text == "ab"


async def test_large_requests_are_sent_completely(vendor: Vendor, connect: Connect, wire: Wire) -> None:
    vendor.will(Reply(wire.answer(["ok"])))
    text = "0123456789" * 300_000
    await connect(wire.provider_type).generate(ask(user(text)), Heard())
    assert text in str(vendor.sent)


async def test_counts_that_are_not_numbers_are_left_out(
    vendor: Vendor, connect: Connect, sse_wire: Wire
) -> None:
    stream = (
        b"".join(sse_wire.answer(["ok"]))
        .replace(b"100", b"-1")
        .replace(b'"output_tokens":7', b'"output_tokens":"x"')
    )
    vendor.will(Reply([stream], headers=SSE))
    response = await connect(sse_wire.provider_type).generate(ask(user("Hi")), Heard())
    assert response.usage is None or isinstance(response.usage, Usage)
