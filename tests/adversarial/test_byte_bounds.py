"""Few things that are very large: answers take little memory, others do not wait, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.server import Server, post
from tests.talk import Json, Talk, new_talk, script

pytestmark = pytest.mark.asyncio(loop_scope="session")

LARGE = [{"type": "text", "text": "ä" + "x" * 999_999}] * 9
SIZE = 9_000_000
MESSAGES = 5
MEMORY = 90_000_000
"""Bytes that an answer may take while it is made: copies of an item of 9 MB. One made at once takes several
times its 45 MB."""
WAIT = 4.0
"""Seconds that others may wait on a busy machine."""


@pytest.fixture(scope="module", params=["sqlite_server", "postgresql_server"], name="server")
def _server(request: pytest.FixtureRequest) -> Server:
    """A server on each of the databases in turn."""
    server = request.getfixturevalue(request.param)
    assert isinstance(server, Server)
    return server


@pytest_asyncio.fixture(scope="module", loop_scope="session", name="talk")
async def _talk(server: Server) -> AsyncIterator[tuple[Server, Talk]]:
    """A session with messages of 9 MB."""
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        talk = await new_talk(client)
        for _ in range(MESSAGES):
            await post(client, talk.path("/messages"), {"message": {"role": "user", "content": LARGE}})
        last = await talk.say(script({"text": "Done."}))
        await talk.logged_until("session.idled", after=last["sequence"])
        yield server, talk


def _peak(server: Server) -> int:
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@asynccontextmanager
async def modest(server: Server) -> AsyncIterator[None]:
    """Fails if the block takes much of the server's memory, or of the time of others."""
    Path(f"/proc/{server.pid}/clear_refs").write_text("5")
    before = _peak(server)
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as other:
            while True:
                began = time.monotonic()
                assert (await other.get("/health")).status_code == 200
                longest = max(longest, time.monotonic() - began)
                await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
    assert (taken := _peak(server) - before) < MEMORY, taken
    assert longest < WAIT


async def _size(talk: Talk, path: str) -> int:
    async with talk.http.stream("GET", talk.path(path)) as answer:
        assert answer.status_code == 200
        return sum([len(chunk) async for chunk in answer.aiter_bytes()])


READS: dict[str, str] = {
    "messages": "/messages",
    "export": "/export",
    "events": "/events?limit=1000",
    "newest events": "/events?limit=1000&order_desc=true",
    "events before": "/events?limit=1000&before_sequence=10000",
    "context report": "/context-report",
}


@pytest.mark.parametrize("what", READS)
async def test_a_large_answer_takes_little_memory_and_nobody_waits(
    talk: tuple[Server, Talk], what: str
) -> None:
    server, session = talk
    async with modest(server):
        size = await _size(session, READS[what])
    if what in ("messages", "export"):
        assert size > MESSAGES * SIZE
    if "events" in what:
        assert 9_000_000 < size < 40_000_000


async def test_a_client_that_follows_has_more_loses_no_event(talk: tuple[Server, Talk]) -> None:
    _, session = talk
    seen: list[int] = []
    after = pages = 0
    while True:
        pages += 1
        page = (
            await session.http.get(
                session.path(f"/events?limit=1000&exclude=llm.generation&after_sequence={after}")
            )
        ).json()
        seen += [event["sequence"] for event in page["data"]]
        after = seen[-1]
        if not page.get("has_more"):
            break
    summary = (await session.http.get(session.path("/events/summary"))).json()
    left_out = {each["event_type"]: each["count"] for each in summary["by_type"]}["llm.generation"]
    assert len(set(seen)) == len(seen) == summary["total"] - left_out
    assert pages > 1


async def test_a_fork_of_a_long_session_is_whole_and_others_write_meanwhile(
    talk: tuple[Server, Talk],
) -> None:
    server, session = talk
    key = {"Idempotency-Key": f"fork-{session.id}"}

    async def fork() -> Json:
        answer = await session.http.post(session.path("/fork"), json={}, headers=key)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    async def write_beside(forking: asyncio.Task[Json]) -> float:
        longest = 0.0
        while not forking.done():
            began = time.monotonic()
            await post(session.http, "/v1/sessions", {"title": "beside"})
            longest = max(longest, time.monotonic() - began)
        return longest

    before = (await session.http.get("/v1/sessions/stats")).json()["total"]
    async with modest(server):
        forking = asyncio.create_task(fork())
        assert await write_beside(forking) < WAIT
    copy = await forking
    assert await fork() == copy
    total = (await session.http.get("/v1/sessions/stats")).json()["total"]
    listed = (await session.http.get("/v1/sessions?search=beside&limit=1")).json()["total"]
    assert total >= before + 1 + min(listed, 1)
    original = (await session.http.get(session.path("/events/summary"))).json()
    copied = (await session.http.get(f"/v1/sessions/{copy['id']}/events/summary")).json()
    assert copied["by_type"] == original["by_type"]


async def test_a_follower_of_a_long_session_gets_every_message(talk: tuple[Server, Talk]) -> None:
    server, session = talk
    stream = session.http.stream("GET", session.path("/sse?types=input.message"))
    async with modest(server), asyncio.timeout(60), stream as answer:
        size = 0
        async for chunk in answer.aiter_bytes():
            size += len(chunk)
            if size > MESSAGES * SIZE:
                break


# --- configurations ----------------------------------------------------------

FILES = [{"path": f"/{n}.txt", "content": "x" * 90_000} for n in range(10)]


@pytest.mark.parametrize(
    "field",
    [
        {"hints": {"a": "x" * 1_000_000}},
        {"initial_files": [*FILES, {"path": "/more", "content": "x" * 200_000}]},
        {"tools": [{"type": "client_side", "name": "t", "description": "x" * 1_000_000, "parameters": {}}]},
        {"capabilities": [{"ref": "current_time", "config": {"x": "x" * 1_000_000}}]},
    ],
    ids=lambda field: next(iter(field)),
)
async def test_a_session_whose_configuration_is_too_large_is_refused(
    talk: tuple[Server, Talk], field: Json
) -> None:
    answer = await talk[1].http.post("/v1/sessions", json=field)
    assert answer.status_code in (400, 413), answer.text


LISTED: dict[str, tuple[str, Callable[[int], Json]]] = {
    "/v1/sessions": ("hints", lambda n: {"title": "heavy", "hints": {"a": "x" * 500_000}}),
    "/v1/agents": ("initial_files", lambda n: {"name": f"heavy-{n}", "system_prompt": "Work."}),
    "/v1/harnesses": ("initial_files", lambda n: {"name": f"heavy-{n}"}),
}


@pytest.mark.parametrize("path", LISTED)
async def test_lists_leave_out_files_and_hints_which_a_single_resource_has(
    talk: tuple[Server, Talk], path: str
) -> None:
    http = talk[1].http
    hidden, body = LISTED[path]
    made = [await post(http, path, {"initial_files": FILES[:5]} | body(number)) for number in range(3)]
    answer = await http.get(path + ("?limit=100" if path != "/v1/harnesses" else ""))
    listed = {each["id"]: each for each in answer.json()["data"]}
    assert len(answer.content) < 1_000_000
    for each in made:
        assert each["id"] in listed
        assert "initial_files" not in listed[each["id"]]
        assert hidden not in listed[each["id"]]
        whole = (await http.get(f"{path}/{each['id']}")).json()
        assert len(whole["initial_files"]) == 5
        assert whole[hidden]


async def test_versions_of_an_agent_are_listed_without_their_files(talk: tuple[Server, Talk]) -> None:
    http = talk[1].http
    agent = await post(http, "/v1/agents", {"name": "versions", "system_prompt": "0", "initial_files": FILES})
    path = f"/v1/agents/{agent['id']}"
    for number in range(12):
        prompt = "x" * 90_000 + str(number)
        assert (await http.patch(path, json={"system_prompt": prompt})).status_code == 200
    listed = (await http.get(f"{path}/versions?limit=100")).json()
    assert [each["version_number"] for each in listed] == list(range(len(listed), 0, -1))
    assert all("initial_files" not in each["authored_config"] for each in listed)
    restored = await post(http, f"{path}/versions/{listed[-1]['id']}/rollback", {}, 200)
    assert len(restored["initial_files"]) == len(FILES)


async def test_a_client_of_pages_that_end_early_misses_no_session(talk: tuple[Server, Talk]) -> None:
    http = talk[1].http
    tool = {"type": "client_side", "name": "t", "description": "x" * 3_900, "parameters": {"type": "object"}}
    tools = [tool | {"name": f"tool_{n}"} for n in range(100)]
    made = [
        (await post(http, "/v1/sessions", {"title": "large page", "tools": tools}))["id"] for _ in range(15)
    ]
    for query in ("limit=100", "limit=100&search=large+page"):
        seen: list[str] = []
        url = f"/v1/sessions?{query}"
        while url and not set(made) <= set(seen):
            page = (await http.get(url)).json()
            assert len(json.dumps(page)) < 8_000_000
            assert page["offset"] == len(seen)
            seen += [each["id"] for each in page["data"]]
            url = page.get("next_url", "")
        assert set(made) <= set(seen)
        assert len(seen) == len(set(seen))


async def test_many_large_values_are_listed_in_little_memory(talk: tuple[Server, Talk]) -> None:
    server, session = talk
    value = "v" * 45_000
    steps = [
        {
            "tool_calls": [
                {"name": "kv_store", "arguments": {"operation": "set", "key": f"k{n}", "value": value}}
                for n in range(at, at + 20)
            ]
        }
        for at in range(0, 40, 20)
    ]
    for step in steps:
        message = await session.say(script(step, {"text": "Done."}))
        await session.logged_until("session.idled", after=message["sequence"])
    async with modest(server):
        answer = await session.http.get(session.path("/storage/keys"))
    keys = [pair["key"] for pair in answer.json()["data"]]
    assert keys == sorted(f"k{n}" for n in range(40))


@pytest.mark.parametrize("content", ["text", "bytes"])
async def test_a_large_file_is_read_whole(talk: tuple[Server, Talk], content: str) -> None:
    import base64

    server, session = talk
    text = ('ä"\\\n' + "x" * 1_000) * 5_000
    data = base64.b64encode(bytes(range(256)) * 20_001).decode()
    sent = {"content": text} if content == "text" else {"content": data, "encoding": "base64"}
    await post(session.http, session.path(f"/fs/{content}"), sent)
    async with modest(server):
        answer = await session.http.get(session.path(f"/fs/{content}"))
    assert answer.json()["content"] == sent["content"]
    assert answer.json()["encoding"] == ("text" if content == "text" else "base64")
    again = await session.http.get(
        session.path(f"/fs/{content}"), headers={"if-none-match": answer.headers["etag"]}
    )
    assert again.status_code == 304


# --- searches ----------------------------------------------------------------


async def test_searches_of_one_session_keep_nobody_waiting(talk: tuple[Server, Talk]) -> None:
    _, session = talk

    async def search(word: str) -> int:
        return (await session.http.get(session.path(f"/events?q={word}&limit=10"))).status_code

    async def others() -> None:
        other = await new_talk(session.http)
        for _ in range(5):
            began = time.monotonic()
            assert (await session.http.get(other.path("/messages"))).status_code == 200
            assert time.monotonic() - began < WAIT

    searches: Awaitable[list[int]] = asyncio.gather(*(search(f"absent-{n}") for n in range(3)))
    await others()
    assert set(await searches) <= {200, 429, 503}
