"""Client-side tools that the Python client runs by itself, and turns that wait for somebody else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from perdure.client import (
    ApprovalDecision,
    CapabilityRef,
    Client,
    ClientSideTool,
    ToolCallContext,
    ToolCallResult,
    ToolError,
    TurnFailed,
    TurnWaits,
    client_side_tool,
    data_of,
    tool,
)
from tests.command import LIMIT, use_simulated_model
from tests.server import Server

ANYTHING = {"type": "object"}


def calls(*named: str | tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """A model's answer that calls these tools."""
    pairs = [(each, {}) if isinstance(each, str) else each for each in named]
    return {"tool_calls": [{"name": name, "arguments": arguments} for name, arguments in pairs]}


def script(*steps: dict[str, Any]) -> str:
    return f"Please. [[sim {json.dumps([*steps, {'text': 'Done.'}])}]]"


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with Client(server.url) as made:
        await use_simulated_model(made)
        yield made


async def results_of(client: Client, session_id: str) -> list[tuple[str, str]]:
    """The names of the calls, each with the text of its result or its error."""
    events = await client.list_events(session_id, types=("tool.completed",), limit=1000)
    done = [data_of(event) for event in events]
    return [(each.tool_name, each.error or each.result[0].text) for each in done]


@tool
async def weather(city: str, days: int = 1) -> dict[str, Any]:
    """Look up the weather.

    Args:
        city: The city's name.
    """
    return {"city": city, "days": days}


@tool
async def fails() -> None:
    """Fail with a bug."""
    raise KeyError("a detail that is no business of the model")


@tool
async def refuses() -> None:
    """Refuse politely."""
    raise ToolError("Only on weekdays.")


@tool(timeout=0.05)
async def hangs() -> None:
    """Take too long."""
    await asyncio.Event().wait()


@tool
async def cancels_itself() -> None:
    """Cancel something of its own."""
    raise asyncio.CancelledError


@tool
async def returns_nothing() -> None:
    """Return nothing."""


@tool
async def returns_too_much() -> str:
    """Return more than the server takes."""
    return "x" * 200_000


@tool
async def returns_an_object() -> object:
    """Return what is no JSON."""
    return object()


@tool
async def returns_half_a_pair() -> str:
    """Return text that UTF-8 cannot encode."""
    return "\ud800"


@tool
async def returns_what_no_request_may_contain(what: str) -> Any:
    """Return what the server refuses without naming the result.

    Args:
        what: The kind of value.
    """
    nested: Any = 1
    for _ in range(95):
        nested = [nested]
    odd = {"integer": [1 << 80], "nul": {"a\x00": 1}, "deep": nested, "numbers": [9e-307] * 1_100}
    if what == "error":
        raise ToolError("a\x00b")
    return odd[what]


@tool
async def returns_a_broken_image() -> list[dict[str, str]]:
    """Return what the server refuses."""
    return [{"type": "image", "base64": "no image", "media_type": "image/png"}]


@tool
async def names_its_call(ctx: ToolCallContext) -> str:
    """Say which call it is."""
    return f"{ctx.session_id} {ctx.tool_call.name}"


OUTCOMES = (
    (weather, {"city": "Rome"}, '{"city":"Rome","days":1}'),
    (fails, {}, "The tool failed: KeyError."),
    (refuses, {}, "Only on weekdays."),
    (hangs, {}, "The tool did not finish within 0.05 seconds."),
    (cancels_itself, {}, "The tool failed: it was cancelled from inside."),
    (returns_nothing, {}, "Done."),
    (returns_too_much, {}, "The tool's result has 200002 bytes, and at most 102400 are possible."),
    (returns_an_object, {}, "The tool failed: TypeError."),
    (returns_half_a_pair, {}, "The tool failed: UnicodeEncodeError."),
)
UNSENDABLE = {
    "integer": "contains an integer of more than 64 bits",
    "nul": "contains NUL characters",
    "deep": "is nested more than 90 levels deep",
    "numbers": "but the server refused it: the body may have at most 1000 numbers",
    "error": "a\ufffdb",
}


async def test_every_outcome_of_a_function_is_a_result_for_the_model(client: Client) -> None:
    tools = [function for function, _, _ in OUTCOMES]
    session = await client.create_session(tools=tuple(client_side_tool(each) for each in tools))
    text = script(calls(*((each.name, arguments) for each, arguments, _ in OUTCOMES)))
    assert await client.ask(session.id, text, tools=tools) == "Done."
    expected = [(each.name, outcome) for each, _, outcome in OUTCOMES]
    assert sorted(await results_of(client, session.id)) == sorted(expected)


async def test_a_result_that_the_server_refuses_becomes_an_error_and_the_others_stay(client: Client) -> None:
    tools = [weather, returns_a_broken_image, names_its_call]
    session = await client.create_session(tools=tuple(client_side_tool(each) for each in tools))
    text = script(calls(("weather", {"city": "Rome"}), "returns_a_broken_image", "names_its_call"))
    assert await client.ask(session.id, text, tools=tools) == "Done."
    results = dict(await results_of(client, session.id))
    assert results["weather"] == '{"city":"Rome","days":1}'
    assert "but the server refused it" in results["returns_a_broken_image"]
    assert results["names_its_call"] == f"{session.id} names_its_call"


async def test_no_result_keeps_a_turn_waiting_because_the_request_with_it_is_refused(client: Client) -> None:
    odd = returns_what_no_request_may_contain
    for what, words in UNSENDABLE.items():
        session = await client.create_session(tools=(client_side_tool(odd),))
        assert await client.ask(session.id, script(calls((odd.name, {"what": what}))), tools=[odd]) == "Done."
        ((_, text),) = await results_of(client, session.id)
        assert words in text


async def test_calls_of_one_answer_run_at_the_same_time(client: Client) -> None:
    both = asyncio.Barrier(2)

    async def meet(arguments: dict[str, Any]) -> str:
        await both.wait()
        return str(arguments["from"])

    definition = ClientSideTool("meet", "Meet the other.", ANYTHING)
    session = await client.create_session(tools=(definition,))
    text = script(calls(("meet", {"from": "Rome"}), ("meet", {"from": "Oslo"})))
    assert await client.ask(session.id, text, tools=[(definition, meet)]) == "Done."
    assert sorted(await results_of(client, session.id)) == [("meet", "Oslo"), ("meet", "Rome")]


async def test_two_followers_run_a_call_once_and_each_round_has_calls_of_its_own(client: Client) -> None:
    ran: list[str] = []

    @tool
    async def count(word: str) -> str:
        """Count."""
        ran.append(word)
        await asyncio.sleep(0)
        return word

    session = await client.create_session(tools=(client_side_tool(count),))
    steps = [calls(("count", {"word": word})) for word in ("one", "two", "one")]
    key = {"tools": [count], "idempotency_key": "question-1"}
    answers = await asyncio.gather(*(client.ask(session.id, script(*steps), **key) for _ in range(3)))
    assert set(answers) == {"Done."}
    assert ran == ["one", "two", "one"]
    # A program that asks again finds the turn's end, and runs nothing.
    assert await client.ask(session.id, script(*steps), **key) == "Done."
    assert len(ran) == 3


async def test_calls_are_answered_although_the_server_is_killed_between_request_and_result(
    any_server: Server,
) -> None:
    ran = 0

    @tool
    async def restart() -> str:
        """Kill the server, and start it again."""
        nonlocal ran
        ran += 1
        await any_server.restart()
        return "restarted"

    async with Client(any_server.url) as client:
        await use_simulated_model(client)
        session = await client.create_session(tools=(client_side_tool(restart),))
        text = script(calls("restart"), calls("restart"))
        assert await client.ask(session.id, text, tools=[restart]) == "Done."
        assert ran == 2
        assert await results_of(client, session.id) == [("restart", "restarted")] * 2


async def test_a_program_that_starts_again_answers_the_calls_that_are_still_open(
    server: Server, client: Client
) -> None:
    begun = asyncio.Event()
    ran: list[str] = []
    keys: list[str | None] = []

    @tool
    async def slow(ctx: ToolCallContext, word: str) -> str:
        """Never end, the second time."""
        ran.append(word)
        keys.append(ctx.tool_call.effect_key)
        if len(ran) == 2:
            begun.set()
            await asyncio.Event().wait()
        return word

    session = await client.create_session(tools=(client_side_tool(slow),))
    text = script(calls(("slow", {"word": "one"})), calls(("slow", {"word": "two"})))
    async with Client(server.url) as first:
        asking = asyncio.create_task(
            first.ask(session.id, text, tools=[slow], client_message_id="question-1")
        )
        await begun.wait()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    assert await client.ask(session.id, text, tools=[slow], client_message_id="question-1") == "Done."
    assert ran == ["one", "two", "two"]
    first_call, second_call, repeated = keys
    assert first_call is not None
    assert first_call != second_call == repeated


async def test_a_call_that_the_server_withdraws_is_cancelled(client: Client) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    @tool
    async def wait() -> None:
        """Wait for ever."""
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    session = await client.create_session(tools=(client_side_tool(wait),))
    asking = asyncio.create_task(client.ask(session.id, script(calls("wait")), tools=[wait]))
    await begun.wait()
    await client.cancel(session.id)
    with pytest.raises(TurnFailed):
        await asking
    await cancelled.wait()


async def test_a_call_that_a_message_withdraws_is_cancelled_while_the_turn_goes_on(client: Client) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    @tool
    async def wait() -> None:
        """Wait for ever."""
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    @tool
    async def see() -> str:
        """Wait until the other call is cancelled."""
        await cancelled.wait()
        return "seen"

    tools = [wait, see]
    session = await client.create_session(tools=tuple(client_side_tool(each) for each in tools))
    asking = asyncio.create_task(client.ask(session.id, script(calls("wait")), tools=tools))
    await begun.wait()
    await client.send_message(session.id, script(calls("see")))
    async with asyncio.timeout(LIMIT):
        assert await asking == "Done."
    assert ("see", "seen") in await results_of(client, session.id)


async def test_a_turn_that_waits_for_a_client_says_so_at_once_and_is_resumed(client: Client) -> None:
    definition = ClientSideTool("locate", "Where the user is.", ANYTHING)
    session = await client.create_session(tools=(client_side_tool(weather), definition))
    text = script(calls(("weather", {"city": "Rome"}), "locate"))
    with pytest.raises(
        TurnWaits, match="client-side tool locate: answer with `submit_tool_results`, then"
    ) as caught:
        await client.ask(session.id, text, tools=[weather])
    waits = caught.value
    assert ([call.name for call in waits.calls], waits.approvals) == (["locate"], ())
    with pytest.raises(TurnWaits):
        await client.resume(waits, tools=[weather])
    # The result of the call that this program runs is added.
    done = await client.submit_tool_results(session.id, [ToolCallResult(waits.calls[0].id, result="here")])
    assert done.accepted == 2
    assert await client.resume(waits) == "Done."
    assert await results_of(client, session.id) == [
        ("weather", '{"city":"Rome","days":1}'),
        ("locate", "here"),
    ]


async def test_a_turn_that_waits_is_resumed_with_the_tool_that_was_missing(client: Client) -> None:
    session = await client.create_session(tools=(client_side_tool(weather),))
    with pytest.raises(TurnWaits) as caught:
        await client.ask(session.id, script(calls(("weather", {"city": "Rome"}))))
    assert await client.resume(caught.value, tools=[weather]) == "Done."


async def test_a_turn_that_waits_for_an_approval_says_so_at_once(client: Client) -> None:
    careful = CapabilityRef("tool_approval", config={"mode": "protective"})
    session = await client.create_session(capabilities=(CapabilityRef("session_file_system"), careful))
    write = ("write_file", {"path": "/list.md", "content": "Milk"})
    with pytest.raises(
        TurnWaits, match="approval of write_file: answer with `submit_tool_approvals`, then"
    ) as caught:
        await client.ask(session.id, script(calls(write)))
    waits = caught.value
    (question,) = waits.approvals
    assert (question.tool_name, waits.calls) == ("write_file", ())
    await client.submit_tool_approvals(session.id, [ApprovalDecision(question.tool_call_id, "allow")])
    assert await client.resume(waits) == "Done."
    assert await client.read_file(session.id, "/list.md") == b"Milk"


async def test_who_leaves_the_loop_leaves_no_call_unanswered(client: Client) -> None:
    go_on = asyncio.Event()

    @tool
    async def patient() -> str:
        """Wait until it is told to go on."""
        await go_on.wait()
        return "gone on"

    session = await client.create_session(tools=(client_side_tool(patient),))
    async with aclosing(client.run(session.id, script(calls("patient")), tools=[patient])) as events:
        async for event in events:
            if event.type == "tool.call_requested":
                break
    go_on.set()
    async with aclosing(client.follow(session.id, types=("turn.completed",))) as events:
        async for _ in events:
            break
    assert await results_of(client, session.id) == [("patient", "gone on")]


async def test_mistakes_in_tools_are_reported_before_a_message_is_sent(client: Client) -> None:
    session = await client.create_session()

    @tool(approval=True)
    async def guarded() -> None:
        """Need an approval."""

    for tools, problem in (
        ([weather, weather], "two tools"),
        ([guarded], "approval=True"),
        ([print], "not a"),
    ):
        with pytest.raises((ValueError, TypeError), match=problem):
            await client.ask(session.id, "Hello", tools=tools)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"pass `client_side_tool\(weather\)`, its definition"):
        await client.create_session(tools=(weather,))  # type: ignore[arg-type]
    assert await client.list_messages(session.id) == ()
