"""Tools from files: `perdure serve --tools`, on a real server with each of the databases."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from aiohttp import web

from tests.command import perdure
from tests.postgres_server import PostgresServer
from tests.server import Server, use_simulated_model
from tests.sites import Site
from tests.stub_model import use_model_at
from tests.talk import Json, Talk, call, kinds_of, new_talk, script

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "shop_tools.py"
ODD = Path(__file__).parent / "odd_tools.py"
TOKEN = "sesame-4711-open"


ENVIRONMENT = {"PERDURE_TOOLS": f"{EXAMPLE}:{ODD}", "PERDURE_PRIVATE_ADDRESSES": "true"}


@pytest.fixture
def environment(site: Site) -> dict[str, str]:
    """The settings of the server that calls the shop."""
    return {**ENVIRONMENT, "SHOP_URL": site.url("")}


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["sqlite", "postgres"])
async def tooled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer
) -> AsyncIterator[Server]:
    """A server on each of the databases, for the tests that need no shop."""
    url = await postgres_server.create_database() if request.param == "postgres" else ""
    data = tmp_path_factory.mktemp("tooled") / "data"
    async with (
        Server(data, database_url=url, environment=ENVIRONMENT) as server,
        httpx.AsyncClient(base_url=server.url) as http,
    ):
        await use_simulated_model(http)
        yield server


@pytest.fixture
async def api(tooled: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=tooled.url, timeout=30) as client:
        yield client


async def results(talk: Talk, *calls: Json) -> list[Any]:
    """Make these calls in one answer; what the model reads of each: a result, or an error's text."""
    events = await talk.turn({"tool_calls": list(calls)}, {"text": "Done."})
    return [outcome(event["data"]) for event in events if event["type"] == "tool.completed"]


def outcome(data: Json) -> Any:
    if not data["success"]:
        return data["error"].partition(" It may or may not")[0]
    text = data["result"][0]["text"]
    return json.loads(text) if text[:1] in '{["' or text.isdigit() else text


async def with_secret(http: httpx.AsyncClient, ref: str, **secrets: str) -> Talk:
    off = {"ref": "tool_approval", "config": {"mode": "off"}}
    talk = await new_talk(http, capabilities=[{"ref": ref}, off])
    (await http.put(talk.path("/storage/secrets"), json={"secrets": secrets})).raise_for_status()
    return talk


async def test_the_example_works_with_its_shop(http: httpx.AsyncClient, site: Site) -> None:
    asked: list[tuple[str, str | None, str]] = []
    keys: list[str | None] = []

    async def order(request: web.Request) -> web.Response:
        asked.append((request.method, request.headers.get("Authorization"), await request.text()))
        keys.append(request.headers.get("Idempotency-Key"))
        return web.json_response({"status": "paid", "token": TOKEN})

    site.answers = {
        "/orders/A-1": order,
        "/orders/A-2": web.Response(status=404),
        "/refunds": order,
        "/deliveries": order,
    }
    talk = await with_secret(http, "shop_tools", SHOP_TOKEN=TOKEN)
    lines = [{"item": "tea", "pieces": 2}, {"item": "cup"}]
    *found, unknown = await results(
        talk,
        call("order_status", order="A-1"),
        call("order_status", order="A-2"),
        call("write_report", month="2026-05", lines=lines),
        call("write_report", month="2026-05", lines=[{"pieces": 1}]),
        call("authorization"),
    )
    assert unknown.startswith("There is no tool 'authorization'")
    assert found == [
        {"status": "paid", "token": "[secret SHOP_TOKEN]"},
        "There is no order A-2.",
        "The report is in /reports/2026-05.csv.",
        'Invalid arguments. lines/0: "item" is a required property',
    ]
    assert asked == [("GET", f"Bearer {TOKEN}", "")]
    report = (await http.get(talk.path("/fs/reports/2026-05.csv"))).json()
    assert report["content"] == "item,pieces\ntea,2\ncup,1\n"
    assert (await talk.read())["tags"] == ["report"]

    refund = call("refund", "c1", order="A-1", cents=250, reason="late")
    message = await talk.say(script({"tool_calls": [refund]}, {"text": "Refunded."}))
    events = await talk.logged_until("tool.call_requested", after=message["sequence"])
    assert len(asked) == 1
    decision = {"decisions": [{"tool_call_id": "c1", "decision": "allow"}]}
    (await http.post(talk.path("/tool-approvals"), json=decision)).raise_for_status()
    events = await talk.logged_until("session.idled", after=events[-1]["sequence"])
    assert [outcome(each["data"]) for each in events if each["type"] == "tool.completed"][-1] == (
        "Refunded 2.50."
    )
    (started,) = [each["data"] for each in events if each["type"] == "tool.started"]
    assert keys == [None, started["effect_key"]]
    assert asked[1] == ("POST", f"Bearer {TOKEN}", '{"order":"A-1","cents":250,"reason":"late"}')

    message = await talk.say(script({"tool_calls": [call("deliver", order="A-1")]}, {"text": "Delivered."}))
    await talk.logged_until("tool.parked", after=message["sequence"])
    (await http.post(json.loads(asked[2][2])["report_to"], json="at the door")).raise_for_status()
    events = await talk.logged_until("session.idled", after=message["sequence"])
    assert [outcome(each["data"]) for each in events if each["type"] == "tool.completed"] == ["at the door"]


async def test_a_file_and_each_of_its_functions_are_capabilities(api: httpx.AsyncClient) -> None:
    file = (await api.get("/v1/capabilities/shop_tools")).json()
    assert [tool["name"] for tool in file["tool_definitions"]] == [
        "order_status",
        "refund",
        "deliver",
        "write_report",
    ]
    assert file["description"] == "The tools of a shop's support: orders, refunds, deliveries and reports."
    one = (await api.get("/v1/capabilities/refund")).json()
    assert (one["name"], one["category"]) == ("Refund", "tools")
    (tool,) = one["tool_definitions"]
    assert tool["parameters"] == {
        "type": "object",
        "properties": {
            "order": {"type": "string", "description": "The order's number."},
            "cents": {"type": "integer", "description": "The amount."},
            "reason": {
                "type": "string",
                "enum": ["damaged", "late", "other"],
                "description": "Why the customer gets it back.",
            },
        },
        "required": ["order", "cents", "reason"],
        "additionalProperties": False,
    }
    assert tool["description"] == "Refund an order, in part or in full. A person approves it first."
    talk = await new_talk(api, capabilities=[{"ref": "echo_types"}])
    (error,) = await results(talk, call("give", what="text"))
    assert error.startswith("There is no tool 'give'")


async def test_arguments_and_results_have_the_types_of_the_function(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, capabilities=[{"ref": "odd_tools"}])
    point = {"x": 1.0, "y": 2}
    assert await results(
        talk,
        call("echo_types", number=3, point=point, mood="bad", when="2026-05-01T00:00:00Z"),
        call("echo_types", number=3, point={"x": 1}),
        call("echo_types", number=3, point={"x": 1}, when="tomorrow"),
        *(
            call("give", what=what)
            for what in ("text", "nothing", "struct", "time", "number", "set", "object")
        ),
        call("slow-tool"),
    ) == [
        {"number": "int", "point": "Point", "mood": "Mood", "when": "datetime"},
        {"number": "int", "point": "Point", "mood": "Mood", "when": "NoneType"},
        "Invalid arguments. Invalid RFC3339 encoded datetime - at `$.when`",
        "plain",
        "Done.",
        {"corners": [{"x": 1, "y": 2.5}], "mood": "bad"},
        "2026-05-01T00:00:00Z",
        3,
        [1],
        "The tool failed: TypeError.",
        "The tool did not finish within 0.1 seconds.",
    ]


async def test_what_a_function_raises_ends_the_call_and_nothing_else(
    api: httpx.AsyncClient, tooled: Server
) -> None:
    talk = await new_talk(api, capabilities=[{"ref": "fail"}])
    ways = ("refuse", "bug", "exit", "cancel")
    refused, bug, *contained = await results(talk, *(call("fail", how=how) for how in ways))
    assert (refused, bug) == ("Not today.", "The tool failed: KeyError.")
    assert [error[:16] for error in contained] == ["The tool failed:"] * 2
    log = tooled.log.read_text()
    assert f'\n    File "{ODD}", line ' in log
    assert "KeyError: 'a private detail'" in log
    message = await talk.say(script({"tool_calls": [call("fail", how="hang")]}))
    await talk.logged_until("tool.started", after=message["sequence"])
    await talk.cancel()
    assert "turn.cancelled" in kinds_of(await talk.logged_until("session.idled", after=message["sequence"]))


async def test_a_result_that_is_deferred_wrongly_fails_its_call_and_does_not_damage_the_log(
    api: httpx.AsyncClient, tooled: Server
) -> None:
    talk = await new_talk(api, capabilities=[{"ref": "defer"}])
    ways = ("kind", "seconds", "text", "yes", "message", "nobody")
    *errors, nobody = await results(talk, *(call("defer", how=how) for how in ways))
    kinds = ("ValueError", "ValueError", "TypeError", "TypeError", "TypeError")
    assert errors == [f"The tool failed: {kind}." for kind in kinds]
    assert nobody == "A tool cannot defer its result to the kind 'client'."
    log = tooled.log.read_text()
    assert "Later(...) has the kind 'warehouse': it must be \"callback\"" in log
    assert "Later(...) has the deadline 60, which is no time in microseconds since 1970" in log
    assert await results(talk, call("defer", how="kind")) == errors[:1]


async def test_a_request_whose_answer_is_lost_leaves_its_outcome_open(
    http: httpx.AsyncClient, site: Site
) -> None:
    end = asyncio.Event()

    async def hang(request: web.Request) -> web.Response:
        await end.wait()
        return web.Response()

    site.answers = {
        "/hang": hang,
        "/long": web.Response(text="x" * 100),
        "/refused": web.Response(status=422),
    }
    talk = await new_talk(http, capabilities=[{"ref": "send"}])
    urls = [site.url("/hang"), site.url("/long"), site.url("/refused"), "http://127.0.0.1:1025/"]
    calls = [*(call("send", url=url) for url in urls), call("send", url=urls[0], step=True)]
    events = await talk.turn({"tool_calls": calls}, {"text": "Done."})
    end.set()
    ended = [each["data"] for each in events if each["type"] == "tool.completed"]
    assert [data.get("outcome_unknown", False) for data in ended] == [True, True, False, False, True]
    assert "did not answer within 0.5 seconds. It may or may not have taken effect" in ended[0]["error"]
    assert "answered with more than 10 bytes. It may or may not" in ended[1]["error"]
    steps = [each["data"]["status"] for each in events if each["type"] == "tool.step"]
    assert steps == ["started"], "nobody knows whether it has ended"


async def test_a_secret_that_a_tool_reads_is_blanked_in_all_that_it_gives_away(
    api: httpx.AsyncClient, tooled: Server
) -> None:
    talk = await with_secret(api, "odd_tools", PIN=TOKEN)
    async with talk.follow(after_sequence=0) as stream:
        message = await talk.say(script({"tool_calls": [call("leak", which="PIN")]}, {"text": "Done."}))
        frames = await stream.until(
            "session.idled", where=lambda data: data["sequence"] > message["sequence"]
        )
    (result,) = [frame.data["data"] for frame in frames if frame.kind == "tool.completed"]
    mark = "[secret PIN]"
    assert outcome(result) == {"secret": [mark], "inside": f"<{mark}>", mark: 1}
    assert f"It is {mark}" in "".join(str(frame.data) for frame in frames if frame.kind == "tool.progress")
    (await api.put(talk.path("/storage/secrets"), json={"secrets": {"RAISED": "open-4711-too"}}))
    assert await results(talk, call("leak", which="RAISED"), call("leak", which="NONE")) == [
        "It is [secret RAISED]",
        "the session has no secret 'NONE': it has to be stored before the call",
    ]
    found = await results(talk, call("list_everything"))
    assert found == [{"files": ["/leak.bin", "/leak.txt"], "keys": ["leak"]}]
    for path in ("/fs/leak.txt", "/fs/leak.bin", "/storage/keys", "", "/events?limit=1000"):
        text = (await api.get(talk.path(path))).text
        assert "[secret " in text, path
        assert TOKEN not in text
        assert "open-4711" not in text, path
    log = tooled.log.read_text()
    assert "has read the secret PIN" in log
    assert TOKEN not in log


async def test_a_tool_has_the_files_the_storage_and_the_facts_of_its_session(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, capabilities=[{"ref": "use_everything"}])
    assert await results(talk, call("use_everything")) == [
        {
            "text": "ä",
            "bytes": [255, 0],
            "exists": [True, False],
            "list": ["/a", "/a/one.txt", "/a/two.bin"],
            "deleted": [True, False],
            "values": ["v", None],
            "keys": ["k", "l"],
            "removed": [True, False],
            "session": ["Named", ["x", "y"], {"a": "1"}, True],
        }
    ]
    written = [each["data"] for each in await talk.events(types="file.written")]
    assert [(each["path"], each["operation"]) for each in written] == [
        ("/a/one.txt", "write"),
        ("/a/two.bin", "write"),
        ("/a/one.txt", "delete"),
    ]


async def test_a_real_model_server_accepts_the_schemas(tmp_path: Path, llama_url: str) -> None:
    async with (
        Server(tmp_path / "data", environment=ENVIRONMENT) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        refs = [{"ref": ref} for ref in ("shop_tools", "odd_tools")]
        model = await use_model_at(http, llama_url)
        talk = await new_talk(http, harness_name="base", capabilities=refs, model_id=model)
        message = await talk.say("Say hello in one word.")
        events = await talk.logged_until("session.idled", after=message["sequence"])
        assert "turn.completed" in kinds_of(events)


async def test_a_file_with_mistakes_stops_the_start_with_a_line_for_each_of_them(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(EXAMPLE.read_text())
    (tmp_path / "bad.py").write_text(
        "from perdure.tools import tool\n\n\n@tool\ndef add(a, b: int) -> int:\n    'Add.'\n"
    )
    (tmp_path / "worse.py").write_text("import no_such_module\n")
    files = [word for name in ("good", "bad", "worse") for word in ("--tools", str(tmp_path / f"{name}.py"))]
    done = await perdure("serve", "--port", "0", "--data", str(tmp_path / "data"), *files)
    assert (done.status, done.out) == (2, "")
    assert done.err.replace(f"{tmp_path}/", "") == (
        "error: the tools cannot be loaded:\n"
        "  bad.py:5: add has a parameter `a` without a type hint: write for example `a: str`\n"
        "  bad.py:5: add is not `async def`; blocking work goes into a thread, with "
        "`await asyncio.to_thread(...)`\n"
        "  worse.py:1: ModuleNotFoundError: No module named 'no_such_module'\n"
    )
    assert not (tmp_path / "data").exists()
