"""`perdure chat` at a real terminal."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from perdure.client import BuiltinTool, CapabilityRef, Client, ClientSideTool
from tests.command import PERDURE, Terminal, environment, perdure, script, use_simulated_model
from tests.server import Server

CLOCK = {"tool_calls": [{"name": "get_current_time", "arguments": {"timezone": "UTC"}}]}
WEATHER = ClientSideTool("weather", "The weather in a city.", {"type": "object"})


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with Client(server.url) as made:
        await use_simulated_model(made)
        yield made


@pytest.fixture
async def chat(client: Client, server: Server) -> AsyncIterator[Terminal]:
    """`perdure chat` at a terminal, at its first prompt."""
    terminal = Terminal(*PERDURE, "chat", **environment(server.url))
    try:
        await terminal.see("/help")
        await terminal.see("> ")
        yield terminal
    finally:
        terminal.close()


async def test_a_conversation_shows_text_tools_and_thinking_and_ends_with_ctrl_d(
    chat: Terminal, client: Client
) -> None:
    chat.type(script(CLOCK, {"text": "It is late.", "thinking": "Hm, hm."}) + "\n")
    await chat.see('→ get_current_time {"timezone":"UTC"}')
    await chat.see("← get_current_time ")
    await chat.see("Hm, hm.\n")
    await chat.see("It is late.\n")
    await chat.see("> ")
    chat.type(script({"fail": {"code": "provider_auth", "message": "bad key"}}) + "\n")
    await chat.see("✗ bad key (provider_auth)")
    await chat.see("> ")
    chat.type("\x04")
    assert await chat.end() == 0
    assert len((await client.list_sessions()).data) == 1


async def test_ctrl_c_cancels_the_turn_and_not_the_program(chat: Terminal, client: Client) -> None:
    chat.type(script({"tokens": 2000, "delay_ms": 20}) + "\n")
    await chat.see("word word")
    chat.type("\x03")
    await chat.see("ancelled")
    await chat.see("> ")
    (session,) = (await client.list_sessions()).data
    assert session.status == "idle"
    chat.type(script({"text": "Still here."}) + "\n")
    await chat.see("Still here.\n")
    await chat.see("> ")
    # If the signal arrives before the prompt is ready, Python's `input` handles it at the next key.
    chat.type("\x03\n")
    assert await chat.end() == 0
    kinds = [event.type for event in await client.list_events(session.id, limit=1000)]
    assert [kind for kind in kinds if kind.startswith("turn.") and kind != "turn.started"] == [
        "turn.cancelled",
        "turn.completed",
    ]


async def test_the_commands_of_the_prompt(chat: Terminal, client: Client) -> None:
    for line, answer in (
        ("/help", "Ctrl-D"),
        ("/title An order", "title: An order"),
        ("/tags a b", "tags: a, b"),
        ("/show", "An order"),
        ("/tags", "tags: none"),
        ("/nonsense", "unknown command /nonsense"),
        ("/new", " · new"),
        ("/title", "title: none"),
    ):
        chat.type(line + "\n")
        await chat.see(answer)
        await chat.see("> ")
    chat.type("/quit\n")
    assert await chat.end() == 0
    assert [session.title for session in (await client.list_sessions()).data] == [None, "An order"]


async def test_continuing_a_session_shows_its_state(client: Client, server: Server) -> None:
    session = await client.create_session(title="An order", tools=(WEATHER,))
    await client.ask(session.id, script({"text": "Paris."}, words="Which city?"))
    # Longer than any machine needs to start the terminal.
    await client.send_message(session.id, script({"text": "It takes time. " * 9_000, "delay_ms": 10}))
    terminal = Terminal(*PERDURE, "chat", session.id, **environment(server.url))
    try:
        await terminal.see("Which city?")
        await terminal.see("Paris.")
        await terminal.see("· An order")
        await terminal.see("cannot run them")
        await terminal.see("A turn is running.")
        await terminal.see("It takes time.")
        await client.cancel(session.id)
        await terminal.see("> ")
        terminal.type(
            script({"tool_calls": [{"name": "weather", "arguments": {"city": "Rome"}}]}, {"text": "Never."})
            + "\n"
        )
        await terminal.see('→ client-side tool: weather {"city":"Rome"}')
        await terminal.see("> ")
        terminal.type(script({"text": "Without it, then."}) + "\n")
        await terminal.see("Without it, then.\n")
        await terminal.see("> ")
        terminal.type("\x04")
        assert await terminal.end() == 0
    finally:
        terminal.close()


async def test_calls_that_require_approval_are_asked_about(client: Client, server: Server) -> None:
    gated = BuiltinTool("get_current_time", "The time.", {"type": "object"}, policy="requires_approval")
    session = await client.create_session(tools=(gated,), capabilities=(CapabilityRef("current_time"),))
    done = await perdure("chat", session.id, url=server.url, given=script(CLOCK, {"text": "Never."}))
    assert (done.status, done.out) == (1, "")
    assert "no terminal to ask on: get_current_time" in done.err
    before = await client.last_event_id(session.id)
    await client.send_message(session.id, script(CLOCK, CLOCK, {"text": "It is late."}))
    async with aclosing(client.follow(session.id, before, types=("tool.call_requested",))) as events:
        async for _ in events:
            break
    terminal = Terminal(*PERDURE, "chat", session.id, **environment(server.url))
    try:
        await terminal.see('? allow get_current_time to run? {"timezone":"UTC"}')
        await terminal.see("ne[v]er: ")
        terminal.type("perhaps\n")
        await terminal.see("ne[v]er: ")
        terminal.type("no\n")
        await terminal.see("rejected")
        await terminal.see("ne[v]er: ")
        terminal.type("y\n")
        await terminal.see("← get_current_time {")
        await terminal.see("It is late.\n")
        await terminal.see("> ")
        terminal.type(script(CLOCK, {"text": "Never."}) + "\n")
        await terminal.see("ne[v]er: ")
        terminal.type("\x03\n")
        await terminal.see("ancelled")
        await terminal.see("> ")
        terminal.type("\x04")
        assert await terminal.end() == 0
    finally:
        terminal.close()
    assert (await client.get_session(session.id)).status == "idle"


async def test_a_long_call_says_how_much_is_missing_and_is_shown_whole_on_request(
    client: Client, server: Server
) -> None:
    gated = BuiltinTool("get_current_time", "The time.", {"type": "object"}, policy="requires_approval")
    session = await client.create_session(tools=(gated,), capabilities=(CapabilityRef("current_time"),))
    terminal = Terminal(*PERDURE, "chat", session.id, **environment(server.url))
    long = {"name": "get_current_time", "arguments": {"timezone": "UTC" + "x" * 3000 + "; hidden"}}
    try:
        await terminal.see("> ")
        terminal.type(script({"tool_calls": [long]}, {"text": "Late."}) + "\n")
        asked = await terminal.see("type `s` to see all")
        assert "… 1,026 more characters" in asked
        await terminal.see("[s]how all: ")
        terminal.type("s\n")
        assert "; hidden" in await terminal.see("[s]how all: ")
        terminal.type("n\n")
        await terminal.see("Late.")
    finally:
        terminal.close()


async def test_a_killed_server_does_not_end_the_conversation(chat: Terminal, server: Server) -> None:
    chat.type(script({"tokens": 150, "delay_ms": 10}) + "\n")
    await chat.see("word word")
    await server.restart()
    await chat.see("END.")
    await chat.see("> ")
    await server.kill()
    chat.type("Hello?\n")
    await chat.see("error: no answer from")
    await chat.see("> ")
    chat.type("\x04")
    assert await chat.end() == 0
