"""Policy hooks that are down, slow, broken or hostile; where they may be; and their secrets."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from aiohttp import web

from perdure.domain.ids import OrgId
from perdure.domain.network import NetworkRules
from perdure.domain.policy_hooks import MAX_ANSWER, Hook, NoDecision, restored
from perdure.domain.webhooks import Signed
from perdure.net.hook_http import AT_ONCE, HookClient
from tests.hooks import SECRET
from tests.policies import ALLOW, PolicyHook, deciding, decisions_in, only_for, result_of
from tests.server import Server, post, use_simulated_model
from tests.sites import Names, serving
from tests.talk import Json, call, kinds_of, new_talk, script

FILES = {"ref": "session_file_system"}
ORG = OrgId("org_one")
WRITES = {"tool_calls": [call("write_file", "call_1", path="/a", content="x")]}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    environment = {"PERDURE_PRIVATE_ADDRESSES": "127.0.0.1"}
    async with Server(tmp_path_factory.mktemp("bad") / "data", environment=environment) as running:
        async with httpx.AsyncClient(base_url=running.url, timeout=30) as opened:
            await use_simulated_model(opened)
        yield running
    log = running.log.read_text()
    assert "Traceback" not in log
    assert SECRET not in log


@pytest_asyncio.fixture
async def http(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as opened:
        yield opened


@pytest_asyncio.fixture
async def hook() -> AsyncIterator[PolicyHook]:
    async with deciding() as opened:
        yield opened


def answers(body: str | bytes, **more: object) -> web.Response:
    written = body.encode() if isinstance(body, str) else body
    return web.Response(body=io.BytesIO(written), content_type="application/json", **more)  # type: ignore[arg-type]


BROKEN = {
    "500": ("", 500, "the hook answered 500"),
    "no content": ("", 204, "the hook answered 204"),
    "no JSON": ("allow", 200, "not valid"),
    "another word": ('{"decision": "maybe"}', 200, "not valid"),
    "no decision": ("{}", 200, "not valid"),
    "a list": ("[]", 200, "not valid"),
    "modifies nothing": ('{"decision": "modify"}', 200, "has no `arguments`"),
    "deep": ('{"decision": "modify", "arguments": ' + '{"a":' * 200 + "1" + "}" * 201, 200, "too deep"),
    "very deep": ('{"decision": "modify", "arguments": ' + "[" * 100_000, 200, "not valid"),
    "huge": (json.dumps({"decision": "allow", "reason": "x" * MAX_ANSWER}), 200, "more than 1048576 bytes"),
}


@pytest.mark.parametrize("way", BROKEN)
async def test_an_answer_that_is_no_decision_blocks_the_call(
    http: httpx.AsyncClient, hook: PolicyHook, way: str
) -> None:
    body, status, why = BROKEN[way]
    hook.decide = lambda question: answers(body, status=status)
    talk = await new_talk(http, capabilities=[FILES, hook.ref(name="dlp")])
    events = await talk.turn(WRITES, {"text": "Done."})
    (decided,) = decisions_in(events)
    assert (decided["decision"], decided["hook"], "reason" in decided) == ("block", "dlp", False)
    assert why in decided["failure"]
    refused = result_of(events, "call_1")
    assert refused["status"] == "rejected"
    assert why not in refused["error"]  # the model does not learn how the policy is built
    assert "tool.started" not in kinds_of(events)
    assert "turn.completed" in kinds_of(events)


async def test_a_hook_that_is_down_or_slow_blocks_tools_and_lets_model_calls_pass_unless_set_otherwise(
    http: httpx.AsyncClient, hook: PolicyHook
) -> None:
    everything = ("before_model", "before_tool", "after_tool")
    gone = {**hook.config(*everything), "url": "http://127.0.0.1:9/hook"}
    gone["url"] = f"http://127.0.0.1:{_closed_port()}/hook"
    talk = await new_talk(http, capabilities=[FILES, {"ref": "policy_hook", "config": gone}])
    events = await talk.turn(WRITES, {"text": "Done."})
    outcomes = [(each["event"], each["decision"]) for each in decisions_in(events)]
    assert outcomes == [("before_model", "none"), ("before_tool", "block"), ("before_model", "none")]
    hook.open.clear()
    slow = hook.ref(
        *everything,
        timeout_seconds=0.1,
        on_failure={"before_model": "open", "before_tool": "open", "after_tool": "closed"},
    )
    talk = await new_talk(http, capabilities=[FILES, slow])
    events = await talk.turn(WRITES, {"text": "Done."})
    outcomes = [(each["event"], each["decision"]) for each in decisions_in(events)]
    assert outcomes[1:3] == [("before_tool", "none"), ("after_tool", "block")]
    assert decisions_in(events)[1]["failure"] == "no answer within 0.1 seconds"
    assert "withheld its result" in result_of(events, "call_1")["error"]
    assert (await http.get(talk.path("/fs/a"))).status_code == 200  # it ran
    closed = hook.ref("before_model", timeout_seconds=0.1, on_failure={"before_model": "closed"})
    talk = await new_talk(http, capabilities=[closed])
    events = await talk.turn({"text": "Hello."})
    failed = next(each["data"] for each in events if each["type"] == "turn.failed")
    assert failed["error_code"] == "policy_unavailable"
    assert "llm.generation" not in kinds_of(events)


def _closed_port() -> int:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


async def test_redirects_are_not_followed_and_private_addresses_are_refused(
    http: httpx.AsyncClient, hook: PolicyHook
) -> None:
    async with serving() as site:
        site.answers["/inside"] = answers('{"decision": "allow"}')
        there = {"Location": site.url("/inside")}
        hook.decide = lambda question: web.Response(status=307, headers=there)
        talk = await new_talk(http, capabilities=[FILES, hook.ref()])
        events = await talk.turn(WRITES, {"text": "Done."})
        assert "redirects are not followed" in decisions_in(events)[0]["failure"]
        assert site.asked == []
    for url in (
        "http://10.0.0.1/hook",
        "http://169.254.169.254/latest",
        "file:///etc/passwd",
        "http://a:b@x.y/",
    ):
        config = {"url": url, "secret": SECRET}
        body = {"capabilities": [{"ref": "policy_hook", "config": config}]}
        answer = await http.post("/v1/sessions", json=body)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_capability_config"), url
        assert answer.json()["field"] == "capabilities[0].config.url"
        assert SECRET not in answer.text


async def test_a_name_that_leads_inside_later_is_not_asked() -> None:
    request = Signed({"content-type": "application/json"}, b"{}")
    async with serving() as site:
        site.answers["/hook"] = answers('{"decision": "allow"}')
        outside = HookClient(False, Names(policy_example_com=["127.0.0.1"]))
        with pytest.raises(NoDecision, match="not a public host"):
            await outside.ask(ORG, site.url("/hook", "policy.example.com"), request, 5)
        await outside.close()
        assert site.asked == []


async def test_slow_hooks_of_one_organization_do_not_delay_those_of_another() -> None:
    request = Signed({"content-type": "application/json"}, b"{}")
    arrived, go_on = asyncio.Semaphore(0), asyncio.Event()
    async with serving() as site:

        async def slow(asked: web.Request) -> web.Response:
            arrived.release()
            await go_on.wait()
            return answers('{"decision": "allow"}')

        site.answers["/slow"], site.answers["/hook"] = slow, answers('{"decision": "allow"}')
        client = HookClient(True)
        url = site.url("/slow")
        waiting = [asyncio.create_task(client.ask(ORG, url, request, 60)) for _ in range(3 * AT_ONCE)]
        for _ in range(AT_ONCE):
            await arrived.acquire()
        assert await client.ask(OrgId("org_other"), site.url("/hook"), request, 5)
        with pytest.raises(NoDecision, match="no answer within"):
            await client.ask(ORG, site.url("/hook"), request, 0.05)
        go_on.set()
        await asyncio.gather(*waiting)
        await client.close()


async def test_connections_are_used_again_and_a_closed_one_is_replaced() -> None:
    request = Signed({"content-type": "application/json"}, b"{}")
    peers: list[object] = []
    async with serving() as site:

        async def note(asked: web.Request) -> web.Response:
            assert asked.transport is not None
            peers.append(asked.transport.get_extra_info("peername"))
            if len(peers) == 3:
                asked.transport.close()  # in the middle of a request
            return answers('{"decision": "allow"}')

        site.answers["/hook"] = note
        client = HookClient(True)
        for _ in range(3):
            assert await client.ask(ORG, site.url("/hook"), request, 5) == b'{"decision": "allow"}'
        await client.close()
    assert len(peers) == 4
    assert peers[0] == peers[1] == peers[2] != peers[3]


async def test_the_secret_is_stored_encrypted_and_of_no_use_elsewhere(
    server: Server, http: httpx.AsyncClient, hook: PolicyHook
) -> None:
    agent = await post(
        http, "/v1/agents", {"name": "sealed", "system_prompt": "Hi.", "capabilities": [hook.ref()]}
    )
    config = agent["capabilities"][0]["config"]
    assert config["secret"].startswith("sealed:")
    assert SECRET not in json.dumps(agent)
    again = await http.patch(f"/v1/agents/{agent['id']}", json={"capabilities": agent["capabilities"]})
    assert again.json()["capabilities"] == agent["capabilities"]
    talk = await new_talk(http, capabilities=[FILES, {"ref": "policy_hook", "config": config}])
    await talk.turn(WRITES, {"text": "Done."})
    assert len(hook.came) == 1  # which checks the signature
    moved = {**config, "url": hook.url("/elsewhere")}
    altered = {**config, "secret": config["secret"][:-8] + "AAAAAAA="}
    for each in (
        moved,
        altered,
        {**config, "secret": "short"},
        {**config, "secret": 7},
        {**config, "secret": ""},
    ):
        body = {"capabilities": [{"ref": "policy_hook", "config": each}]}
        answer = await http.post("/v1/sessions", json=body)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_capability_config")
        assert config["secret"] not in answer.text
    answer = await http.post("/v1/sessions", json={"capabilities": [{"ref": "policy_hook"}]})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_capability_config")
    database = (server.data / "perdure.db").read_bytes() + (server.data / "perdure.db-wal").read_bytes()
    assert SECRET.encode() not in database
    assert SECRET.removeprefix("whsec_").encode() not in database
    await http.delete(f"/v1/agents/{agent['id']}")


async def test_a_blueprints_hook_is_sealed_too(http: httpx.AsyncClient, hook: PolicyHook) -> None:
    blueprint = {"description": "Writes.", "capabilities": [FILES, hook.ref()]}
    subagents = {"ref": "subagents", "config": {"blueprints": {"writer": blueprint}}}
    talk = await new_talk(http, capabilities=[subagents])
    stored = await talk.read()
    assert SECRET not in json.dumps(stored)
    hook.decide = only_for("write_file", {"decision": "block"})
    spawned = {"name": "w", "mode": "foreground", "blueprint": "writer", "instructions": ""}
    spawned["instructions"] = script(WRITES, {"text": "Done."})
    await talk.turn({"tool_calls": [{"name": "spawn_agent", "arguments": spawned}]}, {"text": "Done."})
    assert [each["tool_call"]["name"] for each in hook.asked("before_tool")] == ["write_file"]


async def test_a_sessions_secrets_are_redacted_in_questions_and_restored_in_arguments(
    http: httpx.AsyncClient, hook: PolicyHook
) -> None:
    secret = "tops3cret-value"
    content = f"key={secret}"

    def elsewhere(question: Json) -> Json:
        made = question.get("tool_call", {})
        if question["event"] != "before_tool" or made["name"] != "write_file":
            return ALLOW
        return {"decision": "modify", "arguments": {**made["arguments"], "path": "/b"}}

    hook.decide = elsewhere
    for redact in (True, False):
        talk = await new_talk(
            http, capabilities=[FILES, hook.ref("before_tool", "after_tool", redact=redact)]
        )
        hook.came.clear()
        hook.open.clear()
        # The model knows the secret from a message that came before it was one.
        lists = {"tool_calls": [call("list_directory", "call_0", path="/")]}
        writes = {"tool_calls": [call("write_file", "call_1", path="/a", content=content)]}
        reads = {"tool_calls": [call("read_file", "call_2", path="/b")]}
        message = await talk.say(script(lists, writes, reads, {"text": "Done."}))
        await hook.until(1)
        answer = await http.put(talk.path("/storage/secrets"), json={"secrets": {"KEY": secret}})
        assert answer.status_code == 200, answer.text
        hook.open.set()
        await talk.logged_until("session.idled", after=message["sequence"])
        seen = "key=[secret KEY]" if redact else content
        assert hook.asked("before_tool")[1]["tool_call"]["arguments"]["content"] == seen
        assert seen in hook.asked("after_tool")[-1]["result"]
        assert any(secret.encode() in each.body for each in hook.came) is not redact
        # The tool gets the secret itself, as the model wrote it; the log does not.
        assert (await http.get(talk.path("/fs/b"))).json()["size_bytes"] == len(content)
        started = [each for each in await talk.events() if each["type"] in ("tool.started", "hook.decided")]
        assert secret not in json.dumps(started)


async def test_requests_are_bounded_and_say_what_is_cut(http: httpx.AsyncClient, hook: PolicyHook) -> None:
    ref = hook.ref("before_model", "before_tool", "after_tool", max_body_bytes=4096)
    talk = await new_talk(http, capabilities=[FILES, ref])
    long = '"\\\u00e9' * 4000
    writes = {"tool_calls": [call("write_file", "call_1", path="/a", content=long)]}
    reads = {"tool_calls": [call("read_file", "call_2", path="/a")]}
    await talk.turn(writes, reads, {"text": "Done."}, ask=long)
    assert max(len(each.body) for each in hook.came) <= 4096
    asked = hook.asked("before_tool")[0]["tool_call"]
    assert (asked["arguments"], asked["arguments_truncated"]) == (None, True)
    assert asked["arguments_text"].startswith('{"path":"/a"')
    assert hook.asked("after_tool")[1]["result_truncated"] is True
    assert hook.asked("before_model")[0]["messages"][0]["truncated"] is True
    assert hook.asked("before_model")[0]["messages"][0]["changeable"] is False
    quiet = hook.ref(
        "before_model", "before_tool", "after_tool",
        include_arguments=False, include_result=False, include_messages=0,
    )  # fmt: skip
    hook.came.clear()
    talk = await new_talk(http, capabilities=[FILES, quiet])
    await talk.turn(WRITES, {"text": "Done."})
    first, before, after, _ = [each.json for each in hook.came]
    assert first["messages"] == []
    assert "arguments" not in before["tool_call"]
    assert "result" not in after


async def test_a_member_cannot_loosen_the_hooks_of_anothers_agent(hook: PolicyHook) -> None:
    from perdure.capabilities.layers import Layer
    from perdure.capabilities.policy import loosens, policy_of
    from perdure.capabilities.registry import Registry
    from perdure.domain.tools import CapabilityRef
    from perdure.tools.built_in import catalogue

    registry = Registry(catalogue())

    def policy(*configs: Json) -> object:
        refs = tuple(CapabilityRef("policy_hook", config) for config in configs)
        return policy_of([Layer("agent", "a", None, refs)], registry)

    one, other = hook.config(), hook.config(path="/other")
    before = policy(one)
    assert loosens(before, policy(), registry)  # type: ignore[arg-type]
    assert loosens(before, policy({**one, "on_failure": {"before_tool": "open"}}), registry)  # type: ignore[arg-type]
    assert not loosens(before, policy(one, other), registry)  # type: ignore[arg-type]
    assert not before.is_empty  # type: ignore[attr-defined]


def test_what_a_hook_leaves_as_it_is_keeps_its_secrets() -> None:
    shown = {"a": "[secret K]", "b": ["[secret K]", 1], "c": {"d": "[secret K]"}}
    real = {"a": "value", "b": ["value", 1], "c": {"d": "value"}}
    assert restored(shown, shown, real) == real
    assert restored({"a": "new", "b": ["[secret K]", 2, 3]}, shown, real) == {
        "a": "new",
        "b": ["value", 2, 3],
    }
    assert restored({"c": {"d": "[secret K]", "e": 1}}, shown, real) == {"c": {"d": "value", "e": 1}}
    assert restored("text", shown, real) == "text"
    assert Hook(url="http://x/", secret="s").hears("before_tool", "any")
    assert not Hook(url="http://x/", secret="s", tools=("mcp_*",)).hears("before_tool", "bash")
    assert NetworkRules() != NetworkRules(private=True)
