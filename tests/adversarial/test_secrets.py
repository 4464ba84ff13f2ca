"""A stored secret is redacted in every output, also in odd places, and redaction breaks nothing.

Covered: the plain value, JSON-escaped (also several times), percent-encoded, and in base64 (also in the
middle of longer base64). Not covered: a value that was reversed, cut in pieces, or encoded in another way.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from perdure.app.storage import put_secrets
from perdure.domain.log_lines import LogFormatter
from perdure.domain.storage import SetSecrets
from tests.adversarial.attack import Raw, done, refused, turn, unseen, use, works
from tests.inside import Gate, house_with, outcomes
from tests.server import Server, post, use_simulated_model
from tests.talk import Json, Talk, body_of, call, new_talk

SECRET = 'hunter2-Zebra "quagga" é'
ALL = [
    {"ref": ref}
    for ref in (
        "session_file_system", "bashkit_shell", "session_storage", "session_sql_database", "session_schedule",
        "session", "web_fetch",
        "stateless_todo_list", "current_time", "output_truncation",
    )
]  # fmt: skip
TRACES = ("hunter2", "ebra", "quagga")


async def holding(http: httpx.AsyncClient, secret: str = SECRET, **fields: Any) -> Talk:
    """Create a session with all tools and a secret."""
    talk = await new_talk(http, capabilities=ALL, **fields)
    await keep(talk, secret)
    return talk


async def keep(talk: Talk, secret: str, name: str = "TOKEN") -> None:
    assert (
        await talk.http.put(talk.path("/storage/secrets"), json={"secrets": {name: secret}})
    ).status_code == 200


async def everything(talk: Talk) -> str:
    """Everything that the API shows of a session, except what a client has written itself."""
    fork = Talk(talk.http, (await post(talk.http, talk.path("/fork"), {}))["id"])
    shown = ""
    for each in (talk, fork):
        for rest in (
            "",
            "/events?limit=1000",
            "/messages",
            "/export",
            "/storage/secrets",
            "/schedules",
            "/context-report",
        ):
            answer = await talk.http.get(each.path(rest))
            shown += answer.text if answer.status_code == 200 else ""
        async with each.follow() as stream:
            shown += json.dumps(
                [frame.data for frame in await stream.until("session.idled")], ensure_ascii=False
            )
    return shown + (await talk.http.get("/v1/sessions", params={"limit": 100})).text


def assert_clean(shown: str) -> None:
    found = [(trace, shown[max(0, at - 80) : at + 40]) for trace in TRACES if (at := shown.find(trace)) >= 0]
    assert found == []


def texts_in(value: Any, name: str = "") -> Iterator[str]:
    """Every text in a JSON value, except ids, which may contain any digits."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from texts_in(each, key)
    elif isinstance(value, list):
        for each in value:
            yield from texts_in(each, name)
    elif not name.endswith(("id", "_at", "_ms")):
        yield str(value)


# --- every output
# ----------------------------------------------------------------------------------------------------


async def test_no_tool_leaks_a_secret(each: httpx.AsyncClient) -> None:
    talk = await holding(each)
    long = f"{SECRET} " * 5_000
    calls = [
        call("write_file", path=f"/{quote(SECRET, safe='')}.txt", content=f"a\n{SECRET}\nb"),
        call("write_file", path="/long.txt", content=long),
        call("bash", command=f"cat <<'E'\n{SECRET}\nE"),
        call("bash", command=f"cat <<'E' >&2\n{SECRET}\nE\nexit 3"),
        call("kv_store", operation="set", key="k", value=SECRET),
        call("sql_execute", sql="CREATE TABLE t (a)"),
        call("write_session_title", title=f"About {SECRET}"),
        call("create_schedule", message=f"Use {SECRET}", at="2099-01-01T00:00:00Z"),
        call("write_todos", todos=[{"content": SECRET, "status": "pending", "active_form": SECRET}]),
        call("web_fetch", url=f"http://{quote(SECRET, safe='')}.invalid/?q={quote(SECRET)}"),
        call("get_current_time", timezone=SECRET),
        call("secret_store", operation="set", key="OTHER", value=f"not {SECRET}"),
        call(SECRET, a=SECRET),
    ]
    again = [
        call("read_file", path="/long.txt"),
        call("grep_files", pattern="hunter2"),
        call("glob", pattern="*Zebra*"),
        call("read_many_files", paths=["/long.txt"]),
        call("list_directory", path="/"),
        call("kv_store", operation="get", key="k"),
        call("sql_execute", sql="INSERT INTO t VALUES (?)", params=[SECRET]),
        call("sql_query", sql=f"SELECT '{SECRET}'"),
        call("sql_execute", sql=f"nonsense '{SECRET}'"),
        call("list_schedules"),
        call("get_session_info"),
        call("bash", command="cat long.txt; base64 -w 0 long.txt; ls"),
        call("secret_store", operation="get", key="TOKEN"),
    ]
    steps = [
        {"text": f"Now {SECRET}.", "tool_calls": calls},
        {"tool_calls": again},
        {"tool_calls": [call("sql_query", sql="SELECT * FROM t")]},
    ]
    await turn(talk, *steps, {"text": f"So it was {SECRET}."}, ask=f"It is {SECRET}.")
    shown = await everything(talk)
    assert "[secret TOKEN]" in shown
    assert_clean(shown)


async def test_metadata_of_a_message_leaks_no_secret(each: httpx.AsyncClient) -> None:
    tool = {"type": "client_side", "name": "ask", "description": "Ask.", "parameters": {"type": "object"}}
    talk = await holding(each, tools=[tool])
    text = unseen(
        {"tool_calls": [call("ask", "ask_1", question=SECRET, deep={SECRET: [SECRET]})]}, {"text": "Done."}
    )
    extra: Json = {"metadata": {"note": SECRET, SECRET: {"a": [SECRET]}}, "tags": ["hunter2-Zebra"]}
    await keep(talk, "hunter2-Zebra", "PART")
    await post(each, talk.path("/messages"), body_of(text, **extra))
    await talk.logged_until("tool.call_requested")
    await talk.answer(
        {"tool_call_id": "ask_1", "result": {SECRET: SECRET, "deep": json.dumps({"a": SECRET})}}
    )
    await talk.logged_until("session.idled")
    assert_clean(await everything(talk))


async def test_live_text_leaks_no_secret_however_it_is_cut(each: httpx.AsyncClient) -> None:
    talk = await holding(each, "hunter2-zebra-4711")
    command = "for c in h u n t e r 2 - z e b r a - 4 7 1 1; do printf $c; sleep 0.03; done"
    async with talk.follow() as stream:
        await talk.say(
            unseen(
                {"tool_calls": [call("bash", command=command)]},
                {"text": "It is hunter2-zebra-4711, is it not?", "delay_ms": 20},
            )
        )
        frames = await stream.until("session.idled")
    pieces: dict[str, str] = {}
    for frame in frames:
        if frame.live:
            data = frame.data["data"]
            pieces[frame.kind] = data.get("accumulated") or pieces.get(frame.kind, "") + data.get("delta", "")
    assert pieces["tool.output.delta"] == "[secret TOKEN]"
    assert pieces["output.message.delta"] == "It is [secret TOKEN], is it not?"
    assert_clean(json.dumps([frame.data for frame in frames if frame.kind != "input.message"]))


@pytest.mark.parametrize(
    "written",
    [
        f"user:{SECRET}", f"a{SECRET}", f"ab{SECRET}cd", f"abc{SECRET}d", SECRET * 3,
    ],
)  # fmt: skip
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
async def test_a_secret_in_the_middle_of_base64_is_found(
    one: httpx.AsyncClient, written: str, encode: Any
) -> None:
    talk = await holding(one)
    text = encode(written.encode()).decode()
    events = await turn(talk, {"text": f"Authorization: Basic {text}"})
    shown = next(
        event["data"]["message"]["content"][0]["text"]
        for event in events
        if event["type"] == "output.message.completed"
    )
    assert "[secret TOKEN]" in shown
    left = shown.removeprefix("Authorization: Basic ").replace("[secret TOKEN]", "")
    # One or two characters at each end also encode bits of the neighbouring text.
    assert len(left) <= len(text) - len(SECRET.encode()) * 4 // 3 * written.count(SECRET) + 4 * written.count(
        SECRET
    )


async def test_truncated_text_contains_no_half_of_a_secret(one: httpx.AsyncClient) -> None:
    secret = "hunter2-" + "Zebra" * 40
    talk = await holding(one, secret)
    for ahead in (150, 190, 199):
        await turn(talk, {"text": "x" * ahead + secret}, ask="x" * ahead + secret)
        await use(talk, "sql_query", sql="SELECT '" + "x" * (ahead + 90) + secret)
        await use(talk, "web_fetch", url=f"http://{'x' * (ahead - 10)}{secret}/")
        await use(talk, "get_current_time", timezone="x" * ahead + secret)
        await use(talk, "sql_query", sql=["x" * ahead + secret])
        await use(
            talk,
            "bash",
            command="cat <<E\n" + "x" * (65_536 // 2 - 120 + ahead) + secret + "x" * 40_000 + "\nE",
        )
    for name, line in (
        ("short", "x" * 330 + secret),
        ("long", "x" * 950 + secret + "x" * 3_000),
        ("full", "x" * 1_048_500 + secret),
    ):
        assert (await one.post(talk.path(f"/fs/{name}"), json={"content": line})).status_code == 201
        await use(talk, "grep_files", pattern="xxx", path=f"/{name}")
        await use(talk, "read_file", path=f"/{name}")
        await use(talk, "bash", command=f"cat {name}")
    assert_clean(await everything(talk))


async def test_a_secret_that_begins_with_another_is_not_partly_shown_while_streaming(
    each: httpx.AsyncClient,
) -> None:
    talk = await holding(each, "hunter2")
    await keep(talk, "hunter2-Zebra-4711", "LONG")
    command = "for c in h u n t e r 2 - Z e b r a - 4 7 1 1; do printf %s $c; sleep 0.06; done"
    async with talk.follow() as stream:
        await talk.say(unseen({"tool_calls": [call("bash", command=command)]}, {"text": "Done."}))
        frames = await stream.until("session.idled")
    pieces = [frame.data["data"]["delta"] for frame in frames if frame.kind == "tool.output.delta"]
    assert "".join(pieces) == "[secret LONG]"


async def test_a_secret_that_is_replaced_while_tools_run_is_in_no_result(
    each: httpx.AsyncClient,
) -> None:
    talk = await new_talk(each, capabilities=ALL)
    assert (await each.post(talk.path("/fs/key"), json={"content": SECRET})).status_code == 201
    await keep(talk, SECRET)
    calls = [
        call("read_file", path="/key"),
        call("secret_store", operation="set", key="TOKEN", value="another"),
    ]
    await turn(
        talk,
        {"tool_calls": calls},
        {"tool_calls": [call("read_file", path="/key")]},
        {"text": f"It was {SECRET}."},
    )
    shown = json.dumps(await talk.events(), ensure_ascii=False)
    assert "[secret TOKEN]" in shown
    assert_clean(shown)


# --- secrets that a model stores
# -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {"operation": "set", "key": "PIN", "value": "hunter2-4711"},
        {"operation": "set", "key": "PIN", "value": "zeb"},
        {"operation": "set", "key": "PIN", "value": Raw("47.11e2")},
        {"operation": "set", "key": "PIN", "value": ["hunter2"]},
        {"operation": "set", "key": "PIN", "value": "hunter2" * 6_000},
        {"operation": "set", "key": "", "value": "hunter2"},
        {"operation": "set", "key": 1, "value": "hunter2"},
        {"operation": "keep", "key": "PIN", "value": "hunter2"},
        {"operation": "get", "key": "PIN", "value": "hunter2"},
        {"operation": "set", "key": "PIN", "secret": "hunter2"},
        {"operation": "set", "key": "PIN", "password": {"it": "hunter2"}},
        '{"operation": "set", "key": "PIN", "value": "hunter2"',
        ["hunter2"],
    ],
)
async def test_a_secret_that_a_model_stores_is_in_no_event_even_in_malformed_calls(
    each: httpx.AsyncClient, arguments: Any
) -> None:
    talk = await new_talk(each, capabilities=ALL)
    events = await turn(
        talk, {"tool_calls": [{"name": "secret_store", "arguments": arguments}]}, {"text": "Done."}
    )
    data = [event["data"] for event in events if event["type"] not in ("turn.started", "turn.completed")]
    for trace in (*TRACES, "zeb", "4711"):
        assert not any(trace in text for text in texts_in(data)), data


# --- redaction breaks nothing
# ---------------------------------------------------------------------------------------------

AWKWARD = {
    "text": "a tag of the log's", "content": "a field's name", "true": "a word of JSON",
    "null": "a word of JSON", "agent": "a role",
    "success": "a status", "tool": "part of types", "2026": "part of times", "1000": "a number",
    "sess": "part of ids",
    '","': "the log's punctuation", "\\\\\\\\": "escapes", "[secret ": "the mark's own",
    "call": "part of call ids", "0000": "in ids",
    "\U0001f600\U0001f600": "four bytes a letter", "session_": "the beginning of ids", '{"a"': "JSON",
    "    ": "spaces",
}  # fmt: skip


@pytest.mark.parametrize("secret", AWKWARD)
async def test_a_secret_that_resembles_part_of_the_log_breaks_no_turn(
    each: httpx.AsyncClient, secret: str
) -> None:
    talk = await holding(each, secret)
    calls = [
        call("kv_store", operation="set", key="n", value=f"1000 true null {secret}"),
        call("sql_execute", sql="CREATE TABLE t AS SELECT 1000 AS a, 'text' AS content", database="db"),
        call("bash", command="echo 1000 true null; echo '{\"a\": null}'; seq 3000; seq 12000"),
        call("write_todos", todos=[{"content": "text", "status": "pending", "active_form": "Doing"}]),
    ]
    after = [
        call("sql_query", sql="SELECT 1000 AS a, 'text' AS content FROM t", database="db"),
        call("get_session_info"),
    ]
    events = await turn(
        talk,
        {"text": f"1000 {secret}", "tool_calls": calls},
        {"tool_calls": after},
        {"text": f"Done: {secret}."},
    )
    results = [event["data"] for event in events if event["type"] == "tool.completed"]
    assert [result["success"] for result in results] == [True] * 6, results
    await turn(talk, {"text": "Again."})
    assert len(await talk.messages()) > 8


async def test_a_secret_in_a_number_is_redacted_as_text(one: httpx.AsyncClient) -> None:
    talk = await holding(one, "4711")
    await works(talk, "sql_execute", sql="CREATE TABLE t (a)")
    events = await turn(
        talk,
        {"tool_calls": [call("sql_query", sql="SELECT ? AS pin", params=[Raw("47.11e2")])]},
        {"text": "Done."},
    )
    begun = next(event["data"] for event in events if event["type"] == "tool.started")
    assert begun["tool_call"]["arguments"]["params"] == ["[secret TOKEN].0"]
    result = next(event["data"] for event in events if event["type"] == "tool.completed")
    assert "4711" not in result["result"][0]["text"]


async def test_marks_do_not_multiply(one: httpx.AsyncClient) -> None:
    """Each secret occurs many times in the mark of the one before it."""
    talk = await new_talk(one)
    for value, name in (
        ("aaaa", "bbbb" * 50),
        ("bbbb", "cccc" * 50),
        ("cccc", "dddd" * 50),
        ("dddd", "eeee" * 50),
    ):
        await keep(talk, value, name)
    message = await talk.say("aaaa bbbb")
    assert len(message["content"][0]["text"]) < 500
    await talk.logged_until("session.idled")
    assert sum(len(json.dumps(event)) for event in await talk.events()) < 200_000


async def test_the_total_size_of_secrets_is_limited(each: httpx.AsyncClient) -> None:
    talk = await new_talk(each)
    await keep(talk, "x" * 32_000, "SAME")
    for number in range(7):
        await keep(talk, f"{number}" + "x" * 32_000, f"N{number}")
    answer = await each.put(talk.path("/storage/secrets"), json={"secrets": {"MORE": "x" * 32_000}})
    assert (answer.status_code, answer.json()["code"]) == (400, "too_many_secrets")
    assert "in total" in await refused(talk, "secret_store", operation="set", key="MORE", value="x" * 32_000)
    await keep(talk, "y" * 32_000, "SAME")
    async with httpx.AsyncClient(base_url=each.base_url, timeout=2) as impatient:
        await Talk(impatient, talk.id).say('"' * 1000)


@pytest.mark.parametrize("depth", [99, 480, 900])
async def test_a_session_with_a_secret_accepts_arguments_of_any_depth(
    each: httpx.AsyncClient, depth: int
) -> None:
    talk = await holding(each)
    deep = Raw("[" * depth + f'"{quote(SECRET)}"' + "]" * depth)
    events = await turn(
        talk, {"tool_calls": [{"name": "write_todos", "arguments": {"todos": deep}}]}, {"text": "Done."}
    )
    assert_clean(json.dumps(events))


# --- outside the session's log
# --------------------------------------------------------------------------------------------------------


async def test_neither_the_servers_log_nor_its_database_contains_a_plain_secret(
    database_url: str, tmp_path: Path
) -> None:
    async with (
        Server(
            tmp_path / "data", database_url=database_url, environment={"PERDURE_LOG_LEVEL": "debug"}
        ) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        await use_simulated_model(http)
        talk = await holding(http)
        key = {"Idempotency-Key": "once"}
        for _ in range(2):
            said = await http.post(
                talk.path("/messages"), json=body_of(unseen({"text": SECRET}, ask=SECRET)), headers=key
            )
            assert said.status_code == 201
            assert_clean(said.text)
        await talk.logged_until("session.idled")
        await done(
            talk, call("bash", command=f"nonsense '{SECRET}'"), call("sql_query", sql=f"nonsense '{SECRET}'")
        )
        for path, body in (
            (talk.path("/messages"), f'{{"{SECRET}'),
            (talk.path("/storage/secrets"), f'{{"secrets": "{SECRET}"}}'),
        ):
            answer = await http.request("PUT" if "secrets" in path else "POST", path, content=body)
            assert answer.status_code in (400, 415)
            assert_clean(answer.text)
    assert_clean(server.log.read_text())
    if not database_url:
        held = b"".join(path.read_bytes() for path in (tmp_path / "data").glob("perdure.db*"))
        assert b"hunter2" not in held


async def test_a_plugins_tool_that_fails_with_a_secret_leaves_none_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate(1)
    async with house_with(gate, tmp_path) as house:
        secrets = SetSecrets({"TOKEN": "secret detail"})
        await put_secrets(house.parts.app, house.owner, house.session_id, secrets)
        await house.say(unseen({"tool_calls": [call("explode")]}, {"text": "Done."}))
        events = await house.until_idle()
    written = "\n".join(LogFormatter().format(record) for record in caplog.records)
    assert "ZeroDivisionError: [secret TOKEN]" in written
    assert "secret detail" not in written
    assert outcomes(events)[0].error.startswith("The tool failed: ZeroDivisionError. ")
