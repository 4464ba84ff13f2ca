"""Text from outside and where calls send data: the rules and the folds."""

from __future__ import annotations

import pytest

from perdure.capabilities.bound_tools import BoundTool
from perdure.capabilities.guards import flow_of, source_of
from perdure.capabilities.port import READ_ONLY, Tool, ToolContext, ToolOutcome
from perdure.domain.actions import AskApproval, RunTools, TurnRules, next_action
from perdure.domain.calls import Allowed, CallState, CallStatus
from perdure.domain.data_flow import CALLBACK, MAX_SOURCES, External, Flow, Outlet, host_of, with_sources
from perdure.domain.events import (
    EventContext,
    InputMessageData,
    NewEvent,
    SessionStartedData,
    TaskUpdatedData,
    ToolCompletedData,
)
from perdure.domain.given_urls import is_given
from perdure.domain.ids import ExecId, HarnessId, MessageId, SessionId, TaskId, ToolCallId, TurnId
from perdure.domain.messages import JsonObject, Message, TextPart
from perdure.domain.network import NetworkRules
from perdure.domain.projection import Projection, project
from perdure.domain.tasks import SessionTask
from perdure.domain.tools import ToolHints
from perdure.domain.turn import Calling
from perdure.domain.turn_totals import Turn

WEB, SHOP = External("example.org", "web_fetch"), External("the MCP server shop", "mcp_shop__buy")


async def _nothing(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    return ToolOutcome(None)


def bound(hints: ToolHints, of: str = "x", flow: Flow | None = None) -> BoundTool:
    return BoundTool(Tool("t", "", {}, _nothing, hints, flow=flow), of, "Shop")


def done(external: External | None = None) -> NewEvent:
    data = ToolCompletedData(ToolCallId("c"), "t", True, "success", external=external)
    return NewEvent(data, EventContext(), 0)


def said(origin: str | None = None, *external: External) -> NewEvent:
    message = Message(MessageId("m"), "user", (TextPart("x"),), "2026-01-01T00:00:00Z")
    data = InputMessageData(message, origin=origin, external=external)  # type: ignore[arg-type]
    return NewEvent(data, EventContext(), 0)


def task(*external: External) -> NewEvent:
    now = "2026-01-01T00:00:00Z"
    data = TaskUpdatedData(
        SessionTask(TaskId("t"), SessionId("s"), "subagent", "x", "running", now, now, external=external)
    )
    return NewEvent(data, EventContext(), 0)


@pytest.mark.parametrize(
    ("event", "sources"),
    [
        (NewEvent(SessionStartedData(HarnessId("h")), EventContext(), 0), ()),
        (NewEvent(SessionStartedData(HarnessId("h"), external=(WEB,)), EventContext(), 0), (WEB,)),
        (done(), ()),
        (done(SHOP), (SHOP,)),
        (said(), ()),
        (said("schedule"), ()),
        (said("task"), ()),
        (said("callback"), (External(CALLBACK),)),  # of an older release
        (said("callback", WEB), (WEB,)),
        (said(None, WEB, SHOP), (WEB, SHOP)),
        (task(), ()),
        (task(WEB), (WEB,)),
    ],
)
def test_the_projection_has_where_text_from_outside_came_from(
    event: NewEvent, sources: tuple[External, ...]
) -> None:
    assert project(Projection(), [event]).external == sources
    # Nothing that follows takes it back, whatever the session does.
    for status in ("active", "idle", "waiting_for_tool_results"):
        before = Projection(external=(WEB,), status=status)  # type: ignore[arg-type]
        assert set(project(before, [event, said(), done()]).external) == {WEB, *sources}


def test_the_first_sources_are_kept_and_each_once() -> None:
    many = [External(f"{number}.example", "t") for number in range(50)]
    known: tuple[External, ...] = ()
    for each in many:
        known = with_sources(known, (each, External(each.source, "other")))
    assert [each.source for each in known] == [each.source for each in many[:MAX_SOURCES]]
    assert with_sources(known, known) is known


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://Example.org:8443/a?b=c@d", "example.org"),
        ("http://user:secret@example.org/", "example.org"),
        ("http://[::1]:80/", "::1"),
        ("http://münchen.example/", "xn--mnchen-3ya.example"),
        ("http://example.org\\@evil.example/", None),
        ("http://example.org, which is safe. Press y/", None),
        ("http://a\u202eb.example/", None),
        (f"http://{'a' * 300}.example/", None),
        ("http://[bad/", None),
        ("/only/a/path", None),
        ("", None),
    ],
)
def test_a_host_in_a_question_is_a_plain_name(url: str, host: str | None) -> None:
    assert host_of(url) == host


def test_a_url_counts_as_given_only_as_a_whole_word_of_a_person() -> None:
    def message(text: str, **more: object) -> Message:
        return Message(MessageId("m"), "user", (TextPart(text),), "2026-01-01T00:00:00Z", **more)  # type: ignore[arg-type]

    url = "https://example.org/a"
    for text in (f"See {url}", f"({url}).", f'"{url}", <{url}>!', f"x\n{url}\ny"):
        assert is_given(url, [message(text)]), text
    for text in (f"{url}/b", f"x{url}", f"{url}?b", "https://example.org", ""):
        assert not is_given(url, [message(text)]), text
    assert not is_given("", [message("...")])
    assert not is_given(url, [message(url, metadata={"task_id": "task_1"})])
    assert not is_given(url, [Message(MessageId("m"), "agent", (TextPart(url),), "2026-01-01T00:00:00Z")])
    assert is_given(url, [message(url, metadata={"mine": 1})])


NAMED = NetworkRules((("api.example",),))
SEARCH = ToolHints(readonly=True, open_world=False)


@pytest.mark.parametrize(
    ("tool", "network", "reads", "sends"),
    [
        (bound(READ_ONLY), NetworkRules(), False, False),
        (bound(ToolHints(open_world=True)), NetworkRules(), True, True),
        (bound(ToolHints(open_world=True), flow=Flow(where="named_hosts")), NetworkRules(), False, False),
        (bound(ToolHints(open_world=True), flow=Flow(where="named_hosts")), NAMED, True, True),
        (bound(ToolHints(), flow=Flow(where="any_host")), NetworkRules(), True, True),
        (bound(ToolHints(), flow=Flow(where="any_host")), NAMED, False, False),
        (bound(ToolHints(), flow=Flow(sends=False)), NetworkRules(), True, False),
        (bound(SEARCH, "mcp:shop"), NetworkRules(), True, False),
        (bound(READ_ONLY, "mcp:shop"), NetworkRules(), True, True),  # it does not say that it is closed
        (bound(ToolHints(open_world=False), "mcp:shop"), NetworkRules(), True, True),
        (bound(ToolHints(), "mcp:shop", Flow(False, False)), NetworkRules(), True, True),
    ],
)
def test_a_tool_exchanges_what_its_hints_and_its_flow_say(
    tool: BoundTool, network: NetworkRules, reads: bool, sends: bool
) -> None:
    flow = flow_of(tool, network)
    assert (flow is not None and flow.reads, flow is not None and flow.sends) == (reads, sends)
    assert (source_of(tool, network, {}) is not None) is reads


def calling(*statuses: CallStatus | None) -> Calling:
    calls = tuple(
        CallState(
            ToolCallId(f"c{index}"), "send", {"url": "https://evil.example/"}, *([status] if status else [])
        )
        for index, status in enumerate(statuses)
    )
    turn = Turn(TurnId("t"), MessageId("m"), None, 0)
    return Calling(turn=turn, exec_id=ExecId("e"), calls=calls)


def test_the_reason_depends_on_the_context_and_the_call() -> None:
    rules = TurnRules(outlets={"send": Outlet("the network", "url")})
    state = calling(None, Allowed())
    assert next_action(state, rules, 0) == RunTools(state, state.calls)
    outside = TurnRules(outlets=rules.outlets, sources=(WEB,))
    # What was approved runs first, and the other call asks then.
    assert next_action(state, outside, 0) == RunTools(state, state.calls[1:])
    alone = calling(None)
    assert next_action(alone, outside, 0) == AskApproval(alone, alone.calls)
    (reason,) = outside.reasons(alone.calls[0])
    assert reason.code == "exfiltration"
    assert "example.org" in reason.message
    assert reason.message.endswith("sends data to evil.example.")
    cleared = TurnRules(outlets=rules.outlets, sources=(WEB,), cleared=frozenset({ToolCallId("c0")}))
    assert next_action(alone, cleared, 0) == RunTools(alone, alone.calls)


def test_a_question_names_a_few_sources_only() -> None:
    many = tuple(External(f"{number}.example") for number in range(5))
    rules = TurnRules(outlets={"send": Outlet("the network")}, sources=many)
    (reason,) = rules.reasons(calling(None).calls[0])
    assert "text from 0.example, 1.example, 2.example and 2 other sources" in reason.message
    assert reason.message.endswith("sends data to the network.")
