"""Questions of agents at the terminal: arrow keys, hidden secrets, numbers in a pipe, and the inbox."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from perdure.client import Client, data_of
from perdure.domain.events import ENDED_TURN
from tests.command import PERDURE, Terminal, environment, perdure, script, use_simulated_model
from tests.journeys.test_questions import COLOUR, SECRET, TOKEN, WHY, asking
from tests.server import Server

UP, DOWN, ESCAPE = "\x1b[A", "\x1b[B", "\x1b"


@pytest.fixture
async def client(sqlite_server: Server) -> AsyncIterator[Client]:
    async with Client(sqlite_server.url) as made:
        await use_simulated_model(made)
        yield made


@asynccontextmanager
async def terminal_of(server: Server, *command: str, **env: str) -> AsyncIterator[Terminal]:
    terminal = Terminal(*PERDURE, *command, **environment(server.url, **env))
    try:
        yield terminal
    finally:
        terminal.close()


async def answers_in(client: Client, session_id: str) -> list[list[str | None]]:
    """What the model read of the answers to each call."""
    found = []
    for event in await client.list_events(session_id, types=("tool.completed",)):
        told = json.loads(data_of(event).result[0].text)["answers"]
        found.append([each.get("answer") or each.get("secret") for each in told])
    return found


async def test_arrow_keys_choose_and_a_secret_is_not_shown(client: Client, sqlite_server: Server) -> None:
    session = await client.create_session()
    async with terminal_of(sqlite_server, "chat", session.id) as terminal:
        await terminal.see("> ")
        terminal.type(script(asking(COLOUR, WHY, TOKEN), {"text": "Thank you."}) + "\n")
        shown = await terminal.see("Esc declines")
        assert "? Which colour?" in shown
        terminal.type(UP + "\r")
        await terminal.see("  red\n")
        await terminal.see("Enter alone declines: ")
        terminal.type("Just so.\n")
        await terminal.see("SHOP_TOKEN")
        await terminal.see("Enter alone declines: ")
        terminal.type(SECRET + "\n")
        assert SECRET not in await terminal.see("Thank you.")
        await terminal.see("> ")
        terminal.type(script(asking(COLOUR), {"text": "Pity."}) + "\n")
        await terminal.see("Esc declines")
        terminal.type(ESCAPE)
        await terminal.see("declined")
        await terminal.see("Pity.")
    assert await answers_in(client, session.id) == [["red", "Just so.", "SHOP_TOKEN"], [None]]


async def test_chat_asks_what_a_session_waits_for_and_ctrl_c_cancels(
    client: Client, sqlite_server: Server
) -> None:
    session = await client.create_session()
    await client.send_message(session.id, script(asking(COLOUR), {"text": "Thank you."}))
    await followed_to(client, session.id, "act.completed")
    async with terminal_of(sqlite_server, "chat", session.id) as terminal:
        await terminal.see("Esc declines")
        terminal.type("\x03")
        assert await followed_to(client, session.id, *ENDED_TURN) == "turn.cancelled"
        await followed_to(client, session.id, "session.idled")
        terminal.type("/quit\n")
        assert await terminal.end() == 0
    assert (await client.get_session(session.id)).status == "idle"
    assert await client.pending(session.id) is None
    assert await answers_in(client, session.id) == []


async def followed_to(client: Client, session_id: str, *kinds: str) -> str:
    """Follow the session from its start; the first of these kinds that comes."""
    async with aclosing(client.follow(session_id)) as events:
        return await anext(event.type async for event in events if event.type in kinds)


async def test_a_dumb_terminal_takes_numbers(client: Client, sqlite_server: Server) -> None:
    session = await client.create_session()
    async with terminal_of(sqlite_server, "chat", session.id, TERM="dumb") as terminal:
        await terminal.see("> ")
        terminal.type(script(asking(COLOUR), {"text": "Thank you."}) + "\n")
        await terminal.see("2. blue (recommended)")
        await terminal.see("1 to 2, Enter alone declines: ")
        terminal.type("3\n")
        await terminal.see("Enter a number from 1 to 2.")
        terminal.type("1\n")
        await terminal.see("Thank you.")
    assert await answers_in(client, session.id) == [["red"]]


async def test_a_pipe_answers_with_its_next_lines(client: Client, sqlite_server: Server) -> None:
    session = await client.create_session()
    given = script(asking(COLOUR, WHY), {"text": "Thank you."}) + "\nno such\n\n1\nJust so.\n"
    done = await perdure("chat", session.id, url=sqlite_server.url, given=given)
    assert (done.status, done.out) == (0, "Thank you.\n")
    assert "? Which colour?\n  1. red\n  2. blue (recommended)\n" in done.err
    assert "it must be one of: 'red', 'blue'" in done.err
    assert await answers_in(client, session.id) == [["red", "Just so."]]


async def test_a_run_stops_with_its_question_and_the_inbox_answers(
    client: Client, sqlite_server: Server
) -> None:
    url, message = sqlite_server.url, script(asking(COLOUR, WHY), {"text": "Thank you."})
    done = await perdure("run", message, url=url)
    assert done.status == 3
    assert "? Which colour?" in done.err
    session_id = done.err.split()[1]
    (item,) = (await client.list_inbox(kind="question", session_id=session_id)).data
    assert f"`perdure inbox answer {item.id}` answers" in done.err
    shown = await perdure("inbox", "show", item.id, url=url)
    assert "2. blue (recommended)" in shown.out
    wrong = await perdure("inbox", "answer", item.id, "-a", "colour=green", "--decline", url=url)
    assert (wrong.status, "it must be one of" in wrong.err) == (1, True)
    right = await perdure("inbox", "answer", item.id, "-a", "colour=red", url=url, given="Just so.\n")
    assert right.out == f"answered {item.id}\n"
    assert await answers_in(client, session_id) == [["red", "Just so."]]
    assert "decided" in (await perdure("inbox", "show", item.id, url=url)).out
