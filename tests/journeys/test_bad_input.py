"""Bad input to every route.

A 4xx in the contract's shape, nothing changed, everything readable, the server alive.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any, get_type_hints
from urllib.parse import urlsplit

import httpx
import hypothesis
import msgspec
import psutil
import pytest
from hypothesis import strategies as st

from perdure.api.kernel.route import Route
from perdure.client import Client
from perdure.domain.ids import new_id
from tests.journeys.world import ROUTES, World, complaint, head, raw_exchange, strictly, watched
from tests.server import Server, post
from tests.soak import amounts

pytestmark = pytest.mark.unmeasured  # the server is measured

JSON_HEADERS = {"content-type": "application/json"}
LIMIT = 10_000_000

NUMBER = "0192f0c1b2a37b5c8d4e5f60718293a4"
NO_IDS = [
    "not-an-id!", "x", "%00", "..%2f..%2fetc", "a" * 8000, "%ff%fe", "%ed%a0%80", "'%20or%201=1--", "%22",
    "{0}_", "{0}", NUMBER, "0192f0c1-b2a3-7b5c-8d4e-5f60718293a4", "{0}_" + NUMBER.upper(),
    "{0}_" + NUMBER + "0", "{0}_" + NUMBER[1:], "{0}_" + NUMBER + "%00", "{0}_" + NUMBER + "%0a",
    "{0}_" + "g" * 32, "{0}_" + "%D9%A1" * 32, "nothing_" + NUMBER, "%20{0}_" + NUMBER, "{0}-" + NUMBER,
    "{0}__" + NUMBER, "%F0%9F%98%80",
]  # fmt: skip

NO_JSON = {
    "empty": b"", "blank": b" \n", "cut off": b'{"a":', "two": b"{}{}", "byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"title":"x"}'.encode("utf-16"), "array": b"[]", "string": b'"x"', "null": b"null",
    "number": b"1", "XML": b"<a/>",
}  # fmt: skip

NO_VALUES = {
    "NaN": b"NaN", "Infinity": b"Infinity", "-Infinity": b"-Infinity", "1e400": b"1e400",
    "400 digits": b"9" * 400, "5000 digits": b"9" * 5000, "NUL": b'"a\\u0000b"', "raw NUL": b'"a\x00b"',
    "NUL in a key": b'{"\\u0000":1}', "surrogate": b'"a\\ud800b"', "low surrogate": b'"a\\udc00b"',
    "bad UTF-8": b'"\xff\xfe"', "100 deep": b"[" * 99 + b"]" * 99, "900 deep": b"[" * 900 + b"]" * 900,
    "100,000 deep": b"[" * 100_000 + b"]" * 100_000, "no end": b'{"a":' * 50_000,
}  # fmt: skip

NO_JSON_TYPES = [
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "application/json; charset=utf-16",
    "",
]

ODD_VALUES: list[Any] = [
    None, True, 0, -1, 1.5, 10**18, -(10**18), "", " ", "x", "x" * 5000, "\u202e\u0007", [], [None], [[]], {},
    {"a": {}}, [{}], ["x"] * 200,
]  # fmt: skip

ODD_TEXTS = [
    "",
    "0",
    "-1",
    "101",
    "1000000000",
    "99999999999999999999",
    "1.5",
    "nope",
    "null",
    "2026-02-30T00:00:00Z",
    "%F0%9F%98%80",
]
NO_TEXTS = ["%00", "%ff", "%ed%a0%80", "a%00b", "%c0%80"]


@pytest.fixture
async def world(shared_server: Server, api: httpx.AsyncClient) -> AsyncIterator[World]:
    """A world on a server that other tests share."""
    async for made in watched(shared_server, api):
        yield made


@pytest.fixture
async def sqlite_world(sqlite_server: Server) -> AsyncIterator[World]:
    """A world on SQLite, for bodies that are refused before the database is asked."""
    async with httpx.AsyncClient(base_url=sqlite_server.url, timeout=30) as http:
        async for made in watched(sqlite_server, http):
            yield made


@pytest.fixture
async def own_world(any_server: Server, http: httpx.AsyncClient) -> AsyncIterator[World]:
    """A world on a server of its own, for tests that may change anything."""
    async for made in watched(any_server, http):
        yield made


def needs_query(route: Route) -> bool:
    return route.query is not None and any(field.required for field in msgspec.structs.fields(route.query))


def with_bodies() -> list[Route]:
    return [route for route in ROUTES if route.body is not None]


@pytest.mark.parametrize("every", amounts(4, 1))
async def test_no_path_takes_what_is_no_id(world: World, every: int) -> None:
    """The sample tries one text in four, another one for each route: all are tried."""
    before, wrong = await world.state(), []
    for number, route in enumerate(ROUTES):
        for name in re.findall(r"{(\w+)}", route.path):
            # Nearly any text is a valid path of a file.
            for text in NO_IDS[number % every :: every] if name != route.rest else ():
                path = world.path(route, **{name: text.format(route.ids.get(name, "nothing"))})
                request = {"json": route.body_example} if route.body is not None else {}
                trouble = complaint(await world.send(route, path, **request))
                if trouble is not None:
                    wrong.append(f"{route.method} {path[:100]}: {trouble}")
    assert wrong == []
    assert await world.state() == before


async def test_what_is_well_formed_and_not_there_is_not_found(world: World) -> None:
    for route in ROUTES:
        for name, prefix in route.ids.items():
            request = {"json": route.body_example} if route.body is not None else {}
            answer = await world.send(route, world.path(route, **{name: new_id(prefix)}), **request)
            if route.operation_id != "upsert_agent":
                assert (answer.status_code, complaint(answer)) == (404, None), route.operation_id


@pytest.mark.parametrize("every", amounts(4, 1))
async def test_no_body_takes_what_is_no_json(world: World, every: int) -> None:
    before, wrong = await world.state(), []
    for number, route in enumerate(with_bodies()):
        for label, body in [*NO_JSON.items()][number % every :: every]:
            trouble = complaint(await world.send(route, content=body, headers=JSON_HEADERS))
            if trouble is not None:
                wrong.append(f"{route.operation_id}, {label}: {trouble}")
    assert wrong == []
    assert await world.state() == before


@pytest.mark.parametrize("every", amounts(4, 1))
async def test_no_body_takes_what_cannot_be_stored_not_even_where_it_is_ignored(
    world: World, every: int
) -> None:
    before, wrong = await world.state(), []
    for number, route in enumerate(with_bodies()):
        for label, value in [*NO_VALUES.items()][number % every :: every]:
            example = msgspec.json.encode(route.body_example)
            spoiled = example[:-1] + (b"," if len(example) > 2 else b"") + b'"nobody_knows":' + value + b"}"
            trouble = complaint(await world.send(route, content=spoiled, headers=JSON_HEADERS))
            if trouble is not None:
                wrong.append(f"{route.operation_id}, {label}: {trouble}")
    assert wrong == []
    assert await world.state() == before


async def test_no_free_field_takes_what_cannot_be_stored(world: World) -> None:
    before, wrong = await world.state(), []
    session = f"/v1/sessions/{world.ids['session']}"
    places = {
        "/v1/sessions": b'{"hints":{"a":@}}',
        f"{session}/messages": b'{"message":{"content":[{"type":"text","text":"x"}]},"metadata":{"a":@}}',
        f"{session}/tool-results": b'{"tool_results":[{"tool_call_id":"a","result":@}]}',
        "/v1/agents": b'{"name":"x","system_prompt":"x","tools":[{"type":"client_side","name":"x",'
        b'"description":"x","parameters":@}]}',
    }
    for path, template in places.items():
        for label, value in NO_VALUES.items():
            trouble = complaint(
                await world.http.post(path, content=template.replace(b"@", value), headers=JSON_HEADERS)
            )
            if trouble is not None:
                wrong.append(f"{path}, {label}: {trouble}")
    assert wrong == []
    assert await world.state() == before


async def test_only_json_is_taken_as_json(world: World) -> None:
    before = await world.state()
    for route in with_bodies():
        # A file may have any type.
        for media in () if route.stream_limit else NO_JSON_TYPES:
            answer = await world.send(
                route, content=msgspec.json.encode(route.body_example), headers={"content-type": media}
            )
            assert (answer.status_code, complaint(answer)) == (415, None), (route.operation_id, media)
        answer = await world.send(route, headers=JSON_HEADERS if route.stream_limit else {})
        assert answer.status_code in (400, 415), route.operation_id
        assert complaint(answer) is None
    assert await world.state() == before


async def test_a_body_over_10_mb_is_refused_by_its_length_and_by_what_arrives(world: World) -> None:
    before = await world.state()

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(LIMIT // 100_000 + 1):
            yield b" " * 100_000

    # A required query parameter is checked before the body.
    taking = [
        route for route in ROUTES if route.method in ("POST", "PUT", "PATCH") and not needs_query(route)
    ]
    for route in taking:
        oversized = {**JSON_HEADERS, "content-length": str((route.body_limit or LIMIT) + 1)}
        status, problem = await raw_exchange(world.server, head(route.method, world.path(route), oversized))
        # A credential in the path is checked before the body.
        refused = "link_gone" if route.path.startswith("/v1/links/") else "gone"
        expected = (413, "too_large") if route.admit is None else (410, refused)
        assert (status, problem["code"]) == expected, route.operation_id
    for route in taking[:3]:
        answer = await world.send(route, content=pieces(), headers=JSON_HEADERS)
        assert (answer.status_code, complaint(answer)) == (413, None)
        answer = await world.send(route, content=b" " * (LIMIT + 1), headers=JSON_HEADERS)
        assert (answer.status_code, complaint(answer)) == (413, None)
    assert await world.state() == before


@pytest.mark.parametrize("every", amounts(4, 1))
async def test_odd_values_in_any_field_are_refused_or_can_be_read_back(own_world: World, every: int) -> None:
    """The sample tries one value in four, another one for each field: all are tried."""
    wrong, count = [], itertools.count()
    for route in with_bodies():
        for field in get_type_hints(route.body):
            for value in ODD_VALUES[next(count) % every :: every]:
                body = {**route.body_example, field: value}
                answer = await own_world.send(route, json=body)
                trouble = None if answer.status_code in (200, 201, 202, 204) else complaint(answer)
                if trouble is not None:
                    wrong.append(f"{route.operation_id}.{field} = {value!r:.40}: {trouble}")
                elif answer.content:
                    strictly(answer.content)
    assert wrong == []


def bad_queries(route: Route) -> Iterator[str]:
    """Queries that must be refused."""
    assert route.query is not None
    for name in get_type_hints(route.query):
        for text in NO_TEXTS:
            yield f"{name}={text}"
    for name in {"limit", "offset", "window"} & set(get_type_hints(route.query)):
        for text in ("-1", "x", "", "1000000000", "99999999999999999999", "1.5", "1&" + name + "=2"):
            yield f"{name}={text}"


async def test_no_query_takes_what_does_not_fit(world: World) -> None:
    before, wrong = await world.state(), []
    for route in ROUTES:
        if route.query is None:
            continue
        for query in bad_queries(route):
            trouble = complaint(await world.send(route, f"{world.path(route)}?{query}"))
            if trouble is not None:
                wrong.append(f"{route.operation_id}?{query}: {trouble}")
    session = f"/v1/sessions/{world.ids['session']}"
    others = [
        "/v1/sessions?limit=0",
        "/v1/sessions?limit=101",
        "/v1/sessions?status=nope",
        "/v1/sessions?pinned=maybe",
        "/v1/sessions?agent_id=x",
        "/v1/sessions?created_after=yesterday",
        "/v1/sessions?created_after=2026-02-30T00:00:00Z",
        "/v1/sessions?created_before=2026-01-01T00:00:00",
        f"/v1/sessions?search={'x' * 501}",
        "/v1/agents?limit=0",
        "/v1/models?source=nope",
        f"{session}/events?limit=1001",
        f"{session}/events?types=nope",
        f"{session}/events?exclude=",
        f"{session}/events?since_id=x",
        f"{session}/events?around=session_{NUMBER}",
        f"{session}/events?turn_id=x",
        f"{session}/events?after_sequence=-1",
        f"{session}/events?after_sequence=1&before_sequence=5",
        f"{session}/events?window=0",
        f"{session}/events?before_sequence=99999999999",
        f"{session}/sse?since_id=x",
        f"{session}/sse?types=nope",
        f"/v1/sessions?{'&'.join('a=1' for _ in range(600))}",
        f"/v1/sessions?search={'%20' * 6000}",
    ]
    for path in others:
        trouble = complaint(await world.http.get(path))
        if trouble is not None:
            wrong.append(f"{path}: {trouble}")
    assert wrong == []
    assert await world.state() == before


async def test_odd_texts_in_any_parameter_are_refused_or_answered(world: World) -> None:
    for route in ROUTES:
        if route.query is None or route.content == "text/event-stream" or route.method != "GET":
            continue
        for name in get_type_hints(route.query):
            for text in ODD_TEXTS:
                answer = await world.send(route, f"{world.path(route)}?{name}={text}")
                assert answer.status_code == 200 or complaint(answer) is None, (
                    route.operation_id,
                    name,
                    text,
                    answer.text,
                )


ODD_HEADERS = [
    {"x-org-id": "x"}, {"x-org-id": "org_"}, {"x-org-id": "\xff"}, {"if-match": "x"}, {"if-match": ""},
    {"if-match": '"'}, {"if-none-match": "é"}, {"idempotency-key": ""}, {"idempotency-key": "x" * 300},
    {"idempotency-key": "\xe9"}, {"last-event-id": "x"}, {"host": "example.com"},
    {"host": "localhost.example.com"}, {"host": ""},
]  # fmt: skip


async def test_headers_that_do_not_fit_are_refused(world: World) -> None:
    before, wrong = await world.state(), []
    path = f"/v1/sessions/{world.ids['session']}"
    for headers in ODD_HEADERS:
        encoded = [(name, value.encode("latin-1")) for name, value in headers.items()]
        if "last-event-id" in headers:
            answer = await world.http.get(f"{path}/sse", headers=encoded)
        elif "idempotency-key" in headers:
            answer = await world.http.post("/v1/sessions", headers=encoded, json={})
        elif "if-none-match" in headers:
            answer = await world.http.get(path, headers=encoded)
        else:
            answer = await world.http.patch(path, headers=encoded, json={"title": "changed"})
        if (trouble := complaint(answer)) is not None:
            wrong.append(f"{headers}: {trouble}")
    assert wrong == []
    assert await world.state() == before


NO_HTTP = {
    "path with raw UTF-8": "GET /v1/sessions/é HTTP/1.1\r\nhost: localhost\r\n\r\n".encode(),
    "NUL in the path": b"GET /v1/sessions/a\x00b HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "space in the path": b"GET /v1/sessions/a b HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "NUL in a header": b"GET /v1/sessions HTTP/1.1\r\nhost: localhost\r\nx: a\x00b\r\n\r\n",
    "two lengths": b"POST /v1/sessions HTTP/1.1\r\nhost: localhost\r\n"
    b"content-length: 2\r\ncontent-length: 3\r\n\r\n{} ",
    "negative length": b"POST /v1/sessions HTTP/1.1\r\nhost: localhost\r\ncontent-length: -2\r\n\r\n{}",
    "length and chunks": b"POST /v1/sessions HTTP/1.1\r\nhost: localhost\r\n"
    b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}",
    "no method": b"FETCH /v1/sessions HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": bytes.fromhex("1603010200010001fc0303") + b"\x00" * 200,
    "noise": bytes(range(256)),
}


@pytest.mark.parametrize("data", NO_HTTP.values(), ids=NO_HTTP.keys())
async def test_what_is_no_http_gets_an_error_of_the_same_shape(sqlite_server: Server, data: bytes) -> None:
    assert (await raw_exchange(sqlite_server, data))[0] == 400
    assert httpx.get(f"{sqlite_server.url}/health").status_code == 200


async def test_a_head_without_an_end_is_cut_off(sqlite_server: Server) -> None:
    for data in (
        b"GET /" + b"a" * 1_000_000,
        b"GET / HTTP/1.1\r\nx: " + b"a" * 1_000_000,
        b"GET / HTTP/1.1\r\n" + b"x: a\r\n" * 200_000,
    ):
        # The answer can be lost if the client keeps sending.
        with contextlib.suppress(ConnectionResetError, asyncio.IncompleteReadError):
            assert (await raw_exchange(sqlite_server, data))[0] in (400, 431)
    assert httpx.get(f"{sqlite_server.url}/health").status_code == 200


async def test_a_request_whose_sender_leaves_changes_nothing(world: World) -> None:
    before = await world.state()
    url = urlsplit(world.server.url)
    path = f"/v1/sessions/{world.ids['session']}"
    beginnings = [
        head("PATCH", path, {**JSON_HEADERS, "content-length": "100"}),
        head("PATCH", path, {**JSON_HEADERS, "content-length": "100"}) + b'{"title":"changed"}',
        head("PATCH", path, {**JSON_HEADERS, "transfer-encoding": "chunked"})
        + b'13\r\n{"title":"changed"}\r\n',
        head("DELETE", path, {})[:-2],
        head("POST", f"{path}/cancel", {"content-length": "10"}) + b"{",
    ]
    for data in beginnings:
        _, writer = await asyncio.open_connection(url.hostname, url.port)
        writer.write(data)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    assert await world.state() == before


async def test_of_a_key_that_is_there_twice_the_last_one_counts(world: World) -> None:
    path = f"/v1/sessions/{world.ids['session']}"
    answer = await world.http.patch(path, content=b'{"title":"one","title":"two"}', headers=JSON_HEADERS)
    assert answer.json()["title"] == "two"
    many = b"{" + b",".join(b'"k%d":1' % number for number in range(100_000)) + b"}"
    assert (await world.http.patch(path, content=many, headers=JSON_HEADERS)).status_code == 200


SCRIPTS = (
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \u200f\u05e9\u05dc\u05d5\u05dd\u200e"
    " \u0645\u0631\u062d\u0628\u0627 e\u0301 \u200b\u2060\ufeff \u202eback\u202c \U0001d518\u026a"
    " \u65e5\u672c\u8a9e \uff46\uff55 \U0010fffd \U0001f3f3\ufe0f\u200d\U0001f308"
)
"""A family and a flag of joined emoji, right-to-left marks and text, combining and zero-width characters, all
planes."""


async def test_text_of_any_script_comes_back_unchanged(world: World) -> None:
    # All of Unicode except control characters (Cc), which are refused, and surrogates (Cs), not text.
    text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=60)
    path = f"/v1/sessions/{world.ids['session']}"

    def check() -> None:
        with httpx.Client(base_url=world.server.url) as http:

            @hypothesis.settings(max_examples=60, derandomize=True, database=None, deadline=None)
            @hypothesis.example(SCRIPTS, [SCRIPTS[:20].strip(), SCRIPTS[-20:].strip()])
            @hypothesis.given(
                text, st.lists(text.filter(lambda tag: tag.strip() == tag != ""), max_size=5, unique=True)
            )
            def holds(title: str, tags: list[str]) -> None:
                answer = http.patch(path, json={"title": title, "tags": tags})
                assert answer.status_code == 200, answer.text
                read = strictly(http.get(path).content)
                assert (read["title"], read["tags"]) == (title, tags)
                for tag in tags[:1]:
                    found = http.get("/v1/sessions", params={"tags": tag, "search": title[:20]}).json()
                    assert [each["title"] for each in found["data"]] == [title]

            holds()

    await asyncio.to_thread(check)


async def test_a_search_does_not_care_for_case_in_any_script_and_tags_are_told_apart_by_it(
    world: World,
) -> None:
    http = world.http
    await post(
        http, "/v1/sessions", {"title": "\u00c4RGER in \u0391\u03a3\u0391", "tags": ["Blau", "\u00c4"]}
    )
    for text in ("\u00e4rger", "\u00c4RGER", "\u03b1\u03c3", "IN \u03b1"):
        assert (await http.get("/v1/sessions", params={"search": text})).json()["total"] == 1, text
    for tag, count in (("Blau", 1), ("blau", 0), ("\u00c4", 1), ("\u00e4", 0), ("Bla_", 0), ("%", 0)):
        assert (await http.get("/v1/sessions", params={"tags": tag})).json()["total"] == count, tag


async def test_a_model_that_says_what_cannot_be_stored_is_understood_without_it(world: World) -> None:
    steps = [
        {"text": "a\x00b", "tool_calls": [{"name": "no\x00tool", "arguments": {"a": "\x00"}}]},
        {"text": "c\x00d\ud800e"},
    ]
    async with Client(world.server.url) as client:
        session = await client.create_session(title="odd")
        assert await client.ask(session.id, f"[[sim {json.dumps(steps)}]]") == "c\ufffdd?e"
    strictly((await world.http.get(f"/v1/sessions/{session.id}/events?limit=1000")).content)
    assert (await world.http.get(f"/v1/sessions/{session.id}")).json()["output_preview"] == "c\ufffdd?e"


async def test_storms_of_bad_input_do_not_make_the_server_grow(sqlite_world: World) -> None:
    process = psutil.Process(sqlite_world.server.pid)
    path = f"/v1/sessions/{sqlite_world.ids['session']}"
    bodies = [
        b'{"a":"' + b"[" * 9_000_000 + b'"}',
        b"[" * 9_000_000,
        b'{"a":' * 1_500_000,
        b'{"title":"' + b"\\" * 9_000_000,
        b'{"a":[' + b"[]," * 2_000_000,
        b'{"a":' + b"9" * 9_000_000,
        b" " * (LIMIT + 1),
        b'{"title":"' + "é".encode() * 4_500_000 + b'"}',
    ]

    async def storm() -> int:
        for body in bodies:
            await sqlite_world.http.patch(path, content=body, headers=JSON_HEADERS)
        return int(process.memory_info().rss)

    first = await storm()
    assert min([await storm() for _ in range(3)]) < first + 40_000_000
