"""Small inputs that could take very long: patterns, nesting, very many parts, and schedules."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import psutil
import pytest

from perdure.domain.errors import InvalidInput
from perdure.domain.schedules import next_firing
from tests.adversarial.attack import done, refused, turn, unseen, use, works
from tests.journeys.world import ROUTES
from tests.server import Server, post
from tests.talk import Json, Talk, call, new_talk, script

QUICK = 5.0
"""Seconds that anything here may take on a busy machine."""

REGEXES = [
    "(a+)+$",
    "(a|a)*b",
    "(a|aa)+$",
    "(x?){200}y",
    "(.*a){15}b",
    "^(([a-z])+.)+[A-Z]([a-z])+$",
    "(?i)(a*)*b",
    "a{1000}{1000}",
    "(((((a{9}){9}){9}){9}){9})",
]
GLOBS = [
    "*" * 500,
    "**/" * 300 + "x",
    "{a,{a,{a,{a,{a,b}}}}}" * 20,
    "[a-z]" * 150,
    "?" * 900,
    "{" + "a," * 400 + "b}",
    "*a*a*a*a*a*a*a*a*a*a*b",
]
TEXTS = [
    "%" * 200,
    "_" * 200,
    "\\" * 200,
    "%a%a%a%a%a%a%a%a%b",
    "'" * 200,
    '"' * 200,
    "(" * 200,
    "*" * 200,
    "a AND " * 30,
    "NEAR(" * 30,
    "-" * 200,
    "a:b:" * 40,
]


class Soon:
    """Fails if its block takes long."""

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        assert time.monotonic() - self._began < QUICK


@pytest.fixture
async def bait(each: httpx.AsyncClient) -> Talk:
    """A session with a file and messages on which a backtracking pattern would hang."""
    talk = await new_talk(each, title="a" * 400 + "!")
    await post(
        each,
        talk.path("/fs/") + "/".join(["aaaaaaaaaaaaaaaa"] * 20),
        {"content": ("a" * 20_000 + "!\n") * 10},
    )
    await talk.say("a" * 50_000 + "!")
    await talk.logged_until("session.idled")
    return talk


async def test_no_pattern_over_files_hangs(bait: Talk) -> None:
    for regex in REGEXES:
        with Soon():
            answer = await bait.http.post(bait.path("/fs/_/grep"), json={"pattern": regex})
            assert answer.status_code in (200, 400), answer.text
    for glob in GLOBS:
        with Soon():
            answer = await bait.http.post(
                bait.path("/fs/_/grep"), json={"pattern": "a", "path_pattern": glob}
            )
            assert answer.status_code in (200, 400), answer.text
    calls = [call("grep_files", pattern=regex) for regex in REGEXES] + [
        call("glob", pattern=glob) for glob in GLOBS
    ]
    calls += [call("grep_files", pattern="a", glob=glob) for glob in GLOBS]
    with Soon():
        results = await done(bait, *calls)
    assert not [result for result in results if "failed:" in str(result.get("error"))]


async def test_no_search_hangs_and_no_character_in_it_is_special(bait: Talk) -> None:
    paths = [
        "/v1/sessions?search=",
        "/v1/agents?search=",
        "/v1/harnesses?search=",
        "/v1/workspaces?search=",
        "/v1/capabilities?search=",
    ]
    paths += ["/v1/users?search=", bait.path("/events?q="), bait.path("/events?tool_name=")]
    for path in paths:
        for text in TEXTS:
            with Soon():
                answer = await bait.http.get(path + quote(text, safe=""))
            assert answer.status_code == 200, (path, text, answer.text)
            assert answer.json()["data"] == [], (path, text)
    calls = [call("query_history", query=text[:200]) for text in TEXTS]
    talk = await new_talk(bait.http, capabilities=[{"ref": "context_compaction"}])
    await talk.say("a" * 50_000 + "!")
    await talk.logged_until("session.idled")
    with Soon():
        assert all(result["success"] for result in await done(talk, *calls))


# --- bodies
# --------------------------------------------------------------------------------------------------------

WIDE = {
    "an array": b"[" + b"0," * 400_000 + b"0]",
    "objects": b"[" + b"{}," * 300_000 + b"{}]",
    "keys": b"{" + b",".join(b'"k%d":0' % number for number in range(80_000)) + b"}",
    "the same key": b"{" + b'"k":0,' * 200_000 + b'"k":0}',
    "escapes": b'"' + b"\\u0041" * 150_000 + b'"',
}


async def test_no_body_with_very_many_parts_takes_long(one: httpx.AsyncClient, sqlite_server: Server) -> None:
    talk = await new_talk(one)
    process = psutil.Process(sqlite_server.pid)
    began = process.memory_info().rss
    for route in ROUTES:
        if route.body is None or "{" in route.path.replace("{session_id}", ""):
            continue
        path = route.path.replace("{session_id}", talk.id)
        for name, value in WIDE.items():
            spoiled = msgspec.json.encode(route.body_example)[:-1] + b',"nobody_knows":' + value + b"}"
            with Soon():
                answer = await one.request(
                    route.method, path, content=spoiled, headers={"content-type": "application/json"}
                )
            assert answer.status_code < 500, (route.operation_id, name, answer.text[:200])
    assert process.memory_info().rss < began + 120_000_000


def nested(depth: int, inside: Any = 1) -> Any:
    for _ in range(depth):
        inside = {"a": [inside]}
    return inside


async def test_nothing_is_stored_with_more_nesting_than_can_be_read(each: httpx.AsyncClient) -> None:
    kept = 0
    for depth in (10, 30, 60, 200, 450):
        tool = {
            "type": "client_side",
            "name": "deep",
            "description": "x",
            "parameters": {"type": "object", "properties": {"a": {"default": nested(depth)}}},
        }
        bodies: list[tuple[str, Json]] = [
            ("/v1/sessions", {"tools": [tool]}),
            ("/v1/sessions", {"hints": nested(depth)}),
            ("/v1/agents", {"name": f"deep-{depth}", "system_prompt": "x", "tools": [tool]}),
        ]
        for path, body in bodies:
            answer = await each.post(path, json=body)
            assert answer.status_code in (201, 400), answer.text[:300]
            if answer.status_code == 201:
                kept += 1
                assert (await each.get(f"{path}/{answer.json()['id']}")).status_code == 200
    assert kept >= 3


@pytest.mark.parametrize("depth", [50, 400, 900])
async def test_arguments_of_any_depth_are_at_worst_an_error(each: httpx.AsyncClient, depth: int) -> None:
    talk = await new_talk(each)
    tool = {"type": "client_side", "name": "ask", "description": "x", "parameters": {"type": "object"}}
    for name in ("bash", "kv_store", "write_todos", "nothing"):
        message = await talk.say(
            f'[[sim [{{"tool_calls":[{{"name":"{name}","arguments":{_deep(depth)}}}]}},{{"text":"Done."}}]]]'
        )
        events = await talk.logged_until("session.idled", after=message["sequence"])
        assert events[-2]["type"] in ("turn.completed", "turn.failed"), events[-2]
    asked = await new_talk(each, tools=[tool])
    await asked.say(
        f'[[sim [{{"tool_calls":[{{"id":"ask_1","name":"ask","arguments":{_deep(40)}}}]}},'
        '{"text":"Done."}]]]'
    )
    await asked.logged_until("tool.call_requested")
    answer = await each.post(
        asked.path("/tool-results"),
        json={"tool_results": [{"tool_call_id": "ask_1", "result": nested(depth // 3)}]},
    )
    assert answer.status_code in (200, 400)
    for one in (talk, asked):
        for rest in ("/events?limit=1000", "/messages", "/export"):
            assert (await each.get(one.path(rest))).status_code == 200


def _deep(depth: int) -> str:
    return '{"a":[' * depth + "1" + "]}" * depth


async def test_very_many_calls_at_once_run_up_to_a_limit(each: httpx.AsyncClient) -> None:
    talk = await new_talk(each)
    calls = [call("bash", command=f"echo {number}") for number in range(60)]
    calls += [call("get_current_time")] * 100
    results = await done(talk, *calls)
    assert sorted(result["success"] for result in results) == [False] * 32 + [True] * 128
    (error,) = {result["error"] for result in results if not result["success"]}
    assert "at most 128 calls" in error
    assert "160" in error


async def test_thousands_of_calls_in_one_answer_stall_nobody(one: httpx.AsyncClient) -> None:
    talk = await new_talk(one)
    with Soon():
        await talk.say(script({"tool_calls": [{"name": "get_current_time"}] * 14_000}, {"text": "Done."}))
        events = await talk.logged_until("session.idled")
    results = [event["data"]["success"] for event in events if event["type"] == "tool.completed"]
    assert results.count(True) == 128
    assert len(results) == 256
    with Soon():
        assert (await use(talk, "get_current_time"))["success"]


async def test_of_too_many_calls_a_client_is_asked_for_the_first_ones(one: httpx.AsyncClient) -> None:
    tool = {"type": "client_side", "name": "ask", "description": "x", "parameters": {"type": "object"}}
    talk = await new_talk(one, harness_name="base", tools=[tool])
    await talk.say(
        unseen({"tool_calls": [call("ask", f"ask_{number}") for number in range(200)]}, {"text": "So."})
    )
    requested = (await talk.logged_until("tool.call_requested"))[-1]["data"]["tool_calls"]
    assert [each["id"] for each in requested] == [f"ask_{number}" for number in range(128)]
    await talk.answer(*({"tool_call_id": each["id"], "result": "yes"} for each in requested))
    events = await talk.logged_until("session.idled")
    assert events[-2]["type"] == "turn.completed"
    assert sum(event["type"] == "tool.completed" for event in events) == 200


async def test_a_model_that_repeats_itself_forever_is_stopped(one: httpx.AsyncClient) -> None:
    talk = await new_talk(one, max_iterations=5)
    steps = [{"tool_calls": [call("get_current_time")]}] * 50
    message = await talk.say(unseen(*steps))
    events = await talk.logged_until("session.idled", after=message["sequence"])
    assert sum(event["type"] == "llm.generation" for event in events) <= 6


# --- schedules
# --------------------------------------------------------------------------------------------------------

CRONS = [
    "0 0 30 2 *", "0 0 31 2,4,6,9,11 *", "0 0 31 4 *", "* * * * * *", "@every 1s", "@reboot", "*/0 * * * *",
    "*/-1 * * * *", "60 * * * *",
    "0-99999999999 * * * *", "1-0 * * * *", "0 0 0 * *", "0 0 * 13 *", "0 0 * * 9", "a b c d e", "* * * *",
    "", " ",
    "\x00 * * * *", "é * * * *",
    "\u0660 \u0660 * * *", "*" * 200, "1," * 90 + "1 * * * *", "0 0 1#5 * *", "0 0 * * 1#9", "L * * * *",
    "? ? ? ? ?", "* * * * *; rm", "* * * * *\n* * * * *",
]  # fmt: skip
ZONES = [
    "../../../etc/passwd",
    "/etc/localtime",
    "Europe/../Europe/Paris",
    "a" * 64,
    "\x00",
    "UTC\n",
    "Etc",
    ".",
    "é",
    "GMT+999",
]


@pytest.mark.parametrize("cron", CRONS)
def test_a_cron_expression_that_never_matches_is_refused_at_once(cron: str) -> None:
    with Soon():
        try:
            found = next_firing(cron, "UTC", 1_700_000_000_000_000)
        except InvalidInput:
            return
    assert found > 1_700_000_000_000_000


async def test_no_schedule_reads_a_file_or_hangs(each: httpx.AsyncClient) -> None:
    talk = await new_talk(each)
    for zone in ZONES:
        answer = await each.post(
            talk.path("/schedules"), json={"message": "m", "cron": "0 0 * * *", "timezone": zone}
        )
        assert answer.status_code == 400, (zone, answer.text)
        assert "root:" not in answer.text
    data = await use(
        await new_talk(each, capabilities=[{"ref": "session_schedule"}]),
        "create_schedule",
        message="m",
        cron="0 0 30 2 *",
    )
    assert "failed:" not in data["error"]
    assert (await each.get(talk.path("/schedules"))).json()["data"] == []


@pytest.mark.parametrize(
    "at",
    [
        "9999-12-31T23:59:59Z",
        "0001-01-01T00:00:00Z",
        "1970-01-01T00:00:00Z",
        "2999-02-30T00:00:00Z",
        "+12999-01-01T00:00:00Z",
        "2999-01-01T00:00:00+99:99",
    ],
)
async def test_a_time_at_the_limit_of_the_range_is_refused_or_stored(
    each: httpx.AsyncClient, at: str
) -> None:
    talk = await new_talk(each)
    answer = await each.post(talk.path("/schedules"), json={"message": "m", "at": at})
    assert answer.status_code in (201, 400), answer.text
    listed = (await each.get(talk.path("/schedules"))).json()["data"]
    assert len(listed) == (answer.status_code == 201)


async def test_a_session_cannot_have_unlimited_schedules(one: httpx.AsyncClient) -> None:
    talk = await new_talk(one, capabilities=[{"ref": "session_schedule"}])
    calls = [call("create_schedule", message="m", cron="* * * * *") for _ in range(20)]
    results = await done(talk, *calls)
    assert sum(result["success"] for result in results) == 5
    assert "at most" in await refused(talk, "create_schedule", message="m", cron="* * * * *")
    assert len((await works(talk, "list_schedules"))["schedules"]) == 5
    await turn(talk, {"text": "Enough."})
