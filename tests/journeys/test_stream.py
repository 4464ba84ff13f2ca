"""The live stream: every follower sees each event once and in order, whenever and wherever it starts."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import h11
import httpx
import psutil
import pytest

from perdure.domain.ids import new_event_id, new_id, sequence_of
from perdure.domain.sse import SseParser
from tests.server import Server, use_simulated_model
from tests.stub_model import endless_model, use_model_at
from tests.talk import PATIENCE, Json, Seen, Talk, call, kinds_of, new_talk, script, when

ANSWER = "one two three four five six seven eight"
SLOW = {"text": ANSWER, "delay_ms": 60}
LONG = {"tokens": 50_000}
ROUND = {"tool_calls": [call("get_current_time"), call("get_session_info")]}


def logged(frames: list[Seen]) -> list[Json]:
    return [frame.data for frame in frames if frame.logged]


def deltas(frames: list[Seen]) -> list[Json]:
    return [frame.data["data"] for frame in frames if frame.kind == "output.message.delta"]


class LazyFollower:
    """A follower that reads nothing until `drain`."""

    def __init__(self, url: str, path: str) -> None:
        address = urlsplit(url)
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.connect((address.hostname, address.port))
        self.port = self._socket.getsockname()[1]
        self._http = h11.Connection(h11.CLIENT)
        request = h11.Request(method="GET", target=path, headers=[("host", address.netloc)])
        self._socket.sendall((self._http.send(request) or b"") + (self._http.send(h11.EndOfMessage()) or b""))

    def drain(self) -> list[Json]:
        """Read until the connection ends; returns the logged events that arrived whole."""
        parser, seen = SseParser(), []
        self._socket.settimeout(PATIENCE)
        while True:
            try:
                chunk = self._socket.recv(65536)
            except ConnectionResetError:
                chunk = b""
            if not chunk:
                self._socket.close()
                return [frame for frame in seen if "sequence" in frame]
            self._http.receive_data(chunk)
            while isinstance(event := self._http.next_event(), h11.Event):
                if isinstance(event, h11.Data):
                    seen += [json.loads(frame.data) for frame in parser.feed(bytes(event.data))]


async def session_with_a_turn(http: httpx.AsyncClient, **fields: object) -> Talk:
    """A session with one completed turn."""
    talk = await new_talk(http, **fields)
    await talk.turn(ROUND, {"text": "Done."})
    return talk


async def test_the_first_frame_is_connected_and_all_others_are_events(api: httpx.AsyncClient) -> None:
    talk = await session_with_a_turn(api)
    async with talk.follow() as stream:
        frames = await stream.until("session.idled")
        raw = stream.raw.decode()
    assert raw.startswith('event: connected\ndata: {"status":"connected"}\n\n')
    assert [frame.kind for frame in frames[1:]] == [frame.data["type"] for frame in frames[1:]]
    assert [frame.id for frame in frames[1:]] == [frame.data["id"] for frame in frames[1:]]
    assert raw.count("\nretry: ") == len(frames) - 1


async def test_the_stream_replays_the_same_events_as_the_list(api: httpx.AsyncClient) -> None:
    talk = await session_with_a_turn(api)
    async with talk.follow() as stream:
        frames = await stream.until("session.idled")
    assert logged(frames) == await talk.events()


@pytest.mark.parametrize("way", ["since_id", "Last-Event-ID"])
async def test_a_follower_resumes_after_any_event_without_a_gap_or_a_repeat(
    api: httpx.AsyncClient, way: str
) -> None:
    talk = await session_with_a_turn(api)
    events = await talk.events()
    for index, event in enumerate(events[:-1]):
        query, headers = (
            ({"since_id": event["id"]}, None) if way == "since_id" else ({}, {"Last-Event-ID": event["id"]})
        )
        async with talk.follow(headers, **query) as stream:
            assert logged(await stream.until("session.idled")) == events[index + 1 :]


async def test_a_browser_that_reconnects_to_its_old_url_continues_after_its_last_event(
    api: httpx.AsyncClient,
) -> None:
    talk = await session_with_a_turn(api)
    events = await talk.events()
    for query in (
        {"since_id": events[1]["id"]},
        {"after_sequence": 2},
        {"since_id": events[0]["id"], "after_sequence": 2},
    ):
        async with talk.follow({"Last-Event-ID": events[4]["id"]}, **query) as stream:
            assert logged(await stream.until("session.idled")) == events[5:]
        async with talk.follow({"Last-Event-ID": events[0]["id"]}, **query) as stream:
            assert logged(await stream.until("session.idled")) == events[2:]
    refused = await api.get(talk.path("/sse"), headers={"Last-Event-ID": "yesterday"})
    assert (refused.status_code, refused.json()["field"]) == (400, "Last-Event-ID")


async def test_a_cursor_that_is_not_of_this_log_is_refused(api: httpx.AsyncClient) -> None:
    talk, other = await session_with_a_turn(api), await session_with_a_turn(api)
    events = await talk.events()
    await other.turn({"text": "More."})
    foreign = [each["id"] for each in await other.events()]
    beyond = new_event_id(len(events) + 1)
    last, made_up = events[-1]["id"], new_event_id(3)
    for cursor in (foreign[2], foreign[-1], beyond, made_up, last[:-1] + ("0" if last[-1] != "0" else "1")):
        answers = [
            await api.get(talk.path("/sse"), params={"since_id": cursor}),
            await api.get(talk.path("/sse"), headers={"Last-Event-ID": cursor}),
            await api.get(talk.path("/sse"), params={"since_id": last}, headers={"Last-Event-ID": cursor}),
            await api.get(talk.path("/events"), params={"since_id": cursor}),
            await api.get(talk.path("/events"), params={"around": cursor}),
        ]
        assert {(each.status_code, each.json()["code"]) for each in answers} == {(400, "unknown_cursor")}
        assert "from the start" in answers[0].json()["detail"]
    ahead = await api.get(talk.path("/sse"), params={"after_sequence": len(events) + 1})
    assert (ahead.status_code, ahead.json()["code"]) == (400, "unknown_cursor")
    assert await talk.events(after_sequence=len(events) + 1) == []
    fork = (await api.post(talk.path("/fork"), json={})).json()["id"]
    copied = await api.get(f"/v1/sessions/{fork}/sse", params={"since_id": last})
    assert copied.json()["code"] == "unknown_cursor"


async def test_a_follower_that_is_at_the_end_of_the_log_waits_there(api: httpx.AsyncClient) -> None:
    talk = await session_with_a_turn(api)
    for cursor in ("since_id", "after_sequence"):
        last = (await talk.events())[-1]
        query = {cursor: last["id"] if cursor == "since_id" else last["sequence"]}
        async with talk.follow(**query) as stream:
            new = await talk.turn({"text": "More."})
            assert logged(await stream.until("session.idled")) == new


async def test_a_follower_resumes_after_a_delta_too(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    async with talk.follow() as stream:
        await talk.say(script(SLOW))
        seen = await stream.until("output.message.delta")
    async with talk.follow({"Last-Event-ID": str(seen[-1].id)}) as stream:
        await talk.say(script({"text": "Steered."}))
        await stream.until("input.message")
        more = await stream.until("output.message.delta")
    async with talk.follow(since_id=more[-1].id) as stream:
        rest = await stream.until("session.idled")
    sequences = [event["sequence"] for event in logged(seen)]
    assert sequences == list(range(1, sequences[-1] + 1))
    assert sequence_of(str(seen[-1].id)) == sequences[-1]
    steered = next(event for event in await talk.events(types="input.message", after_sequence=sequences[-1]))
    assert sequence_of(str(more[-1].id)) == steered["sequence"]
    assert [event["sequence"] for event in logged(rest)] == list(
        range(steered["sequence"] + 1, rest[-1].data["sequence"] + 1)
    )


async def test_deltas_add_up_to_the_answer_and_are_not_logged(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    async with talk.follow() as stream:
        await talk.say(script({"thinking": "Hm.", **SLOW}))
        frames = await stream.until("session.idled")
    assert "".join(each["delta"] for each in deltas(frames)) == deltas(frames)[-1]["accumulated"] == ANSWER
    assert [frame.data["data"]["delta"] for frame in frames if frame.kind == "reason.thinking.delta"] == [
        "Hm."
    ]
    started = next(frame.data for frame in frames if frame.kind == "output.message.started")
    for frame in frames:
        if frame.live:
            assert frame.data["data"]["message_id"] == started["data"]["message_id"]
            assert frame.data["context"] == started["context"]
            assert "sequence" not in frame.data
    assert logged(frames) == await talk.events()


async def test_a_late_follower_gets_the_text_so_far_at_once(api: httpx.AsyncClient) -> None:
    async with endless_model() as (url, asked, _):
        talk = await new_talk(api, model_id=await use_model_at(api, url))
        async with talk.follow() as early:
            await talk.say("Speak.")
            await early.until("output.message.delta")
            assert asked.is_set()
            async with talk.follow() as late, asyncio.timeout(2):
                (text,) = deltas(await late.until("output.message.delta"))
            assert (text["delta"], text["accumulated"]) == ("Well", "Well")
        await talk.cancel()


async def test_a_follower_that_joins_after_the_answer_sees_no_live_text(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    await talk.turn(SLOW)
    for since in await talk.events():
        async with talk.follow(since_id=since["id"]) as stream:
            await talk.say("Ping.")
            assert not deltas([frame for frame in await stream.until("input.message") if frame.data])
            await stream.until("session.idled")


async def test_twenty_followers_see_the_same(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    ready = asyncio.Semaphore(0)

    async def watch() -> list[Seen]:
        async with talk.follow() as stream:
            await stream.until("session.started")
            ready.release()
            return await stream.until("session.idled")

    watchers = [asyncio.create_task(watch()) for _ in range(20)]
    for _ in watchers:
        await ready.acquire()
    await talk.say(script(ROUND, SLOW))
    seen = await asyncio.gather(*watchers)
    first = [(frame.kind, frame.data) for frame in seen[0]]
    assert all([(frame.kind, frame.data) for frame in frames] == first for frames in seen)
    assert deltas(seen[0])[-1]["accumulated"] == ANSWER


async def test_a_follower_sees_the_whole_log_once_whenever_it_joins(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    watchers: list[asyncio.Task[list[Seen]]] = []

    async def watch() -> list[Seen]:
        async with talk.follow() as stream:
            return await stream.until("session.idled", where=lambda event: event["data"]["iterations"] == 7)

    async with talk.follow() as stream:
        await talk.say(script(*[ROUND] * 6, {"text": ANSWER, "delay_ms": 10}))
        while not (frame := await stream.next()) or frame.kind != "session.idled":
            watchers.append(asyncio.create_task(watch()))
    events = await talk.events()
    for frames in await asyncio.gather(*watchers):
        assert logged(frames) == events


async def test_a_follower_can_choose_its_kinds_of_events(api: httpx.AsyncClient) -> None:
    talk = await session_with_a_turn(api)
    events = await talk.events()
    async with talk.follow(types=["turn.started", "session.idled"]) as stream:
        assert kinds_of(logged(await stream.until("session.idled"))) == ["turn.started", "session.idled"]
    async with talk.follow(exclude=["tool.started", "tool.completed", "llm.generation"]) as stream:
        expected = [
            event
            for event in events
            if event["type"] not in ("tool.started", "tool.completed", "llm.generation")
        ]
        assert logged(await stream.until("session.idled")) == expected
    async with talk.follow(types=["turn.started", "session.idled"], exclude=["turn.started"]) as stream:
        assert kinds_of(logged(await stream.until("session.idled"))) == ["session.idled"]
    async with talk.follow(
        types=["output.message.delta", "turn.completed"], since_id=events[-1]["id"]
    ) as stream:
        await talk.say(script(SLOW))
        frames = await stream.until("turn.completed")
    assert deltas(frames)[-1]["accumulated"] == ANSWER
    assert kinds_of(logged(frames)) == ["turn.completed"]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"types": "turn.begun"}, "unknown_event_type"),
        ({"exclude": ["turn.started", ""]}, "unknown_event_type"),
        ({"types": ["turn.started"] * 41}, "invalid_request"),
        ({"since_id": "event_1"}, "invalid_id"),
        ({"since_id": new_id("turn")}, "invalid_id"),
        ({"after_sequence": "-1"}, "invalid_request"),
    ],
)
async def test_invalid_parameters_of_a_stream_are_rejected(
    api: httpx.AsyncClient, query: Json, code: str
) -> None:
    talk = await new_talk(api)
    answer = await api.get(talk.path("/sse"), params=query)
    assert (answer.status_code, answer.json()["code"]) == (400, code)


async def test_the_follower_of_a_deleted_session_is_disconnected_at_once(api: httpx.AsyncClient) -> None:
    talk = await session_with_a_turn(api)
    async with talk.follow() as stream:
        await stream.until("session.idled")
        async with asyncio.timeout(2):
            await api.delete(talk.path())
            (last,) = await stream.to_end()
    assert (last.kind, last.data["reason"]) == ("disconnecting", "session_deleted")


async def test_a_silent_stream_sends_heartbeats_and_ends_after_its_cycle(short_streams: Server) -> None:
    async with httpx.AsyncClient(base_url=short_streams.url, timeout=30) as http:
        await use_simulated_model(http)
        talk = await new_talk(http)
        seen: list[Json] = []
        last: str | None = None
        await talk.say(script({"text": "word " * 30, "delay_ms": 50}))
        connections = 0
        while not seen or seen[-1]["type"] != "session.idled":
            connections += 1
            async with talk.follow({"Last-Event-ID": last} if last else None) as stream:
                frames = await stream.to_end()
            end = frames[-1]
            assert (end.kind, end.data) == ("disconnecting", {"reason": "connection_cycle", "retry_ms": 100})
            seen += logged(frames)
            last = next((frame.id for frame in reversed(frames) if frame.id), last)
        assert connections > 1
        assert seen == await talk.events()
        async with talk.follow(since_id=last) as stream:
            await stream.to_end()
            assert stream.raw.count(b"\n: heartbeat\n\n") >= 2


@pytest.fixture
async def short_streams(database_url: str, tmp_path: Path) -> AsyncIterator[Server]:
    environment = {"PERDURE_STREAM_CYCLE_SECONDS": "0.6", "PERDURE_HEARTBEAT_SECONDS": "0.1"}
    async with Server(tmp_path, database_url=database_url, environment=environment) as server:
        yield server


async def test_a_follower_that_does_not_read_costs_no_memory_is_disconnected_and_can_resume(
    sqlite_server: Server,
) -> None:
    async with httpx.AsyncClient(base_url=sqlite_server.url, timeout=60) as http:
        talk = await new_talk(http, harness_name="base")
        process = psutil.Process(sqlite_server.pid)
        lazy = [LazyFollower(sqlite_server.url, talk.path("/sse?exclude=llm.generation")) for _ in range(20)]
        for _ in range(15):
            await talk.turn(LONG)
        before = process.memory_info().rss
        for _ in range(25):
            await talk.turn(LONG)
        # Each follower has left 25 times 250 KB unread.
        assert process.memory_info().rss - before < 16_000_000

        async def all_disconnected() -> bool:
            ports = {
                connection.raddr.port for connection in process.net_connections("tcp") if connection.raddr
            }
            return not ports & {follower.port for follower in lazy}

        await when(all_disconnected)
        everything = await talk.events(exclude="llm.generation")
        last = everything[-1]["sequence"]
        for follower in lazy:
            seen = follower.drain()
            assert seen == everything[: len(seen)]
        async with talk.follow(since_id=seen[-1]["id"], exclude="llm.generation") as stream:
            rest = logged(await stream.until("session.idled", where=lambda event: event["sequence"] == last))
        assert rest
        assert seen + rest == everything
