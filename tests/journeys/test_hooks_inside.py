"""Policy hooks and prompts that are too long, with an engine in the test's own process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.app.sessions import create_session
from perdure.domain.events import HookDecidedData, TurnFailedData
from perdure.domain.messages import text_of
from perdure.domain.sessions import CreateSession
from perdure.domain.tools import CapabilityRef, ClientSideTool
from perdure.engine.hooks import MAX_TEXT
from tests.journeys.mcp_inside import Host, hosting
from tests.policies import PolicyHook, deciding
from tests.talk import Json, call

FILES = CapabilityRef("session_file_system")
WRITES: Json = {"tool_calls": [call("write_file", "call_1", path="/a", content="heron")]}
DONE: Json = {"text": "Done."}
OPEN = {"after_tool": "open"}


@asynccontextmanager
async def policed(
    folder: Path,
    *events: str,
    answers: tuple[Json, ...] = (WRITES, DONE),
    more: tuple[Any, ...] = (),
    **config: Any,
) -> AsyncIterator[tuple[Host, PolicyHook]]:
    """A session with files, whose calls a hook decides about."""
    async with deciding() as hook:
        refs = (FILES, *more, CapabilityRef("policy_hook", hook.config(*events, **config)))
        async with hosting("", folder, *answers, refs=refs, secrets={"KEY": "a-secret-key"}) as host:
            yield host, hook


async def decided(host: Host) -> list[HookDecidedData]:
    found = [event.get(HookDecidedData) for event in await host.log()]
    return [each for each in found if each is not None]


async def last_result(host: Host) -> str:
    return (await host.said())[-1]


# --- before tool calls ---------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"path": 7}, "do not fit"),
        ({"path": "/a"}, "do not fit"),
        ([], "do not fit"),
    ],
)
async def test_arguments_that_the_tool_does_not_take_are_no_decision(
    tmp_path: Path, arguments: Any, why: str
) -> None:
    async with policed(tmp_path) as (host, hook):
        hook.decide = lambda question: {"decision": "modify", "arguments": arguments}
        await host.ask()
        (record,) = await decided(host)
        assert (record.decision, why in str(record.failure)) == ("block", True)
        assert "gave no decision" in await last_result(host)


async def test_an_answer_that_changes_nothing_is_no_change(tmp_path: Path) -> None:
    async with policed(tmp_path) as (host, hook):
        hook.decide = lambda question: {
            "decision": "modify",
            "arguments": question["tool_call"]["arguments"],
        }
        await host.ask()
        (ended,) = await host.ended()
        assert (ended.success, await decided(host)) == (True, [])


async def test_what_a_hook_writes_is_checked_by_the_guardrails(tmp_path: Path) -> None:
    checks = [
        {"type": "regex", "pattern": "eagle", "stage": "tool_use", "id": "e", "reason_code": "no_eagles"},
        {"type": "regex", "pattern": "crow", "stage": "tool_use", "id": "c", "action": "log"},
    ]
    guards = CapabilityRef("guardrails", {"checks": checks})
    async with policed(tmp_path, more=(guards,)) as (host, hook):
        hook.decide = lambda question: {"decision": "modify", "arguments": {"path": "/a", "content": "eagle"}}
        await host.ask()
        (record,) = await decided(host)
        assert "a guardrail forbids the answer's `arguments` (reason: no_eagles)" in str(record.failure)
        hook.decide = lambda question: {"decision": "modify", "arguments": {"path": "/a", "content": "crow"}}
        await host.ask()
        assert [each.success for each in await host.ended()] == [False, True]
        assert [event.type for event in await host.log()].count("guardrail.hit") == 1
        assert [each.decision for each in await decided(host)] == ["block", "modify"]


async def test_a_hook_that_is_open_lets_calls_pass_without_a_decision(tmp_path: Path) -> None:
    async with policed(tmp_path, on_failure={"before_tool": "open"}) as (host, hook):
        hook.decide = lambda question: {"decision": "perhaps"}
        await host.ask()
        (record,) = await decided(host)
        assert (record.decision, record.failure is None) == ("none", False)
        assert [each.success for each in await host.ended()] == [True]


async def test_a_call_of_a_tool_that_does_not_exist_asks_nobody(tmp_path: Path) -> None:
    calls = {"tool_calls": [call("fly", "call_1")]}
    async with policed(tmp_path, answers=(calls, DONE)) as (host, hook):
        await host.ask()
        assert hook.came == []
        assert "There is no tool 'fly'" in await last_result(host)


async def test_a_call_of_a_client_may_get_other_arguments(tmp_path: Path) -> None:
    calls = {"tool_calls": [call("weather", "call_1", city="Rome")]}
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    async with policed(tmp_path, answers=(calls, DONE)) as (host, hook):
        refs = (CapabilityRef("policy_hook", hook.config("before_tool")),)
        body = CreateSession(
            harness_name="base",
            capabilities=refs,
            tools=(ClientSideTool("weather", "The weather.", parameters),),
        )
        client = replace(host, session=await create_session(host.app, host.owner, body))
        hook.decide = lambda question: {"decision": "modify", "arguments": {"city": "Oslo"}}
        await client.ask()
        (question,) = await client.questions()
        (record,) = await decided(client)
        assert (record.decision, record.arguments) == ("modify", {"city": "Oslo"})
        assert [each.arguments for each in question.tool_calls] == [{"city": "Oslo"}]


async def test_the_arguments_of_a_tool_that_takes_secrets_stay_as_they_are(tmp_path: Path) -> None:
    arguments = {"operation": "set", "name": "PIN", "value": "4711-0815"}
    calls = {"tool_calls": [{"name": "secret_store", "arguments": arguments}]}
    storage = CapabilityRef("session_storage")
    async with policed(tmp_path, answers=(calls, DONE), more=(storage,)) as (host, hook):
        hook.decide = lambda question: {"decision": "modify", "arguments": {"name": "PIN", "value": "x"}}
        await host.ask()
        (record,) = await decided(host)
        assert "changes the arguments of a tool that takes secrets" in str(record.failure)
        assert "4711-0815" not in str(hook.came)


# --- after tool calls ----------------------------------------------------------


@pytest.mark.parametrize("stored", ["failed", "worked"])
async def test_a_result_is_replaced_whether_the_call_has_failed_or_not(tmp_path: Path, stored: str) -> None:
    calls = WRITES if stored == "worked" else {"tool_calls": [call("read_file", "call_1", path="/none")]}
    async with policed(tmp_path, "after_tool", answers=(calls, DONE)) as (host, hook):
        hook.decide = lambda question: {"decision": "modify", "result": {"seen": "nothing"}}
        await host.ask()
        (ended,) = await host.ended()
        (record,) = await decided(host)
        assert ended.success is (stored == "worked")
        assert record.decision == "modify"
        assert '{"seen":"nothing"}' in await last_result(host)


async def test_a_result_is_withheld_and_what_the_hook_says_is_checked(tmp_path: Path) -> None:
    check = {"type": "regex", "pattern": "heron", "stage": "tool_output", "reason_code": "no_birds"}
    guards = CapabilityRef("guardrails", {"checks": [check]})
    async with policed(tmp_path, "after_tool", more=(guards,)) as (host, hook):
        hook.decide = lambda question: {"decision": "block", "reason": "It has a heron."}
        await host.ask()
        (record,) = await decided(host)
        assert record.reason == "[withheld by a guardrail: no_birds]"
        assert "a policy withheld its result" in await last_result(host)
        hook.decide = lambda question: {"decision": "block", "reason": "Not today."}
        await host.ask()
        assert (await decided(host))[-1].reason == "Not today."


async def test_without_a_decision_a_result_is_withheld_unless_the_hook_is_open(tmp_path: Path) -> None:
    async with policed(tmp_path, "after_tool") as (host, hook):
        hook.decide = lambda question: {"decision": "modify"}
        await host.ask()
        assert "gave no decision" in await last_result(host)
        refs = (
            FILES,
            CapabilityRef("policy_hook", hook.config("after_tool", on_failure=OPEN)),
        )
        other = await host.with_session(refs=refs)
        await other.ask()
        assert [each.success for each in await other.ended()] == [True]
        assert [each.decision for each in await decided(other)] == ["none"]


# --- before model calls --------------------------------------------------------


async def test_a_model_gets_another_text_than_the_user_wrote(tmp_path: Path) -> None:
    def decide(question: Json) -> Json:
        (own,) = [each for each in question["messages"] if each["changeable"]]
        return {"decision": "modify", "messages": [{"id": own["id"], "text": "####"}]}

    async with policed(tmp_path, "before_model", answers=(DONE,)) as (host, hook):
        hook.decide = decide
        await host.ask("4711")
        (request,) = host.driver.requests
        assert [text_of(each.content) for each in request.messages] == ["####"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"id": "message_1", "text": "x"}, "which is not changeable"),
        ({"text": "x" * (MAX_TEXT + 1)}, f"more than {MAX_TEXT} characters"),
    ],
    ids=["another", "long"],
)
async def test_a_change_of_what_is_not_the_users_is_no_decision(
    tmp_path: Path, change: Json, why: str
) -> None:
    def decide(question: Json) -> Json:
        own = {"id": question["messages"][-1]["id"]}
        return {"decision": "modify", "messages": [{**own, **change}]}

    async with policed(tmp_path, "before_model", answers=(DONE,), on_failure={"before_model": "closed"}) as (
        host,
        hook,
    ):
        hook.decide = decide
        await host.ask()
        assert host.driver.requests == []
        (record,) = await decided(host)
        assert why in str(record.failure)
        (failed,) = [event.get(TurnFailedData) for event in await host.log() if event.type == "turn.failed"]
        assert failed is not None
        assert failed.error_code == "policy_unavailable"


async def test_a_blocked_model_call_ends_the_turn(tmp_path: Path) -> None:
    async with policed(tmp_path, "before_model", answers=(DONE,)) as (host, hook):
        hook.decide = lambda question: {"decision": "block", "reason": "Not now."}
        await host.ask()
        (failed,) = [event.get(TurnFailedData) for event in await host.log() if event.type == "turn.failed"]
        assert failed is not None
        assert (failed.error_code, "Not now." in failed.error) == ("blocked_by_policy", True)
