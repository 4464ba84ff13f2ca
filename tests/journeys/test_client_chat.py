"""`perdure chat` within this process: a person who types, and a pipe."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable
from typing import Any

import pytest

from perdure.cli.chat import chat
from perdure.cli.common import CommandFailed
from perdure.client import Client, data_of
from perdure.domain.sessions import InitialFile, Session
from perdure.domain.tools import CapabilityRef
from tests.command import script
from tests.journeys.linked import CAREFUL, deletion
from tests.journeys.test_questions import COLOUR, WHY, asking
from tests.server import Server
from tests.typed import CTRL_C, Display, Keyboard, Typed, reach

FILE = InitialFile("/a.md", "Old.\n")


def new_session(server: Server, **fields: Any) -> Session:
    return reach(server, lambda client: client.create_session(**fields))


def converse(
    server: Server, session: Session, *lines: Typed, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str]:
    """Chat at a terminal; the exit status, and what was shown."""
    shown = Display()
    with monkeypatch.context() as patched:
        patched.setenv("TERM", "dumb")
        patched.setattr(sys, "stdin", Keyboard(*lines))
        patched.setattr(sys, "stdout", shown)
        status = chat(Client(server.url), session.id, None, None, None, {})
    return status, shown.getvalue()


def answers_in(server: Server, session: Session) -> list[list[str | None]]:
    """What the model read of the answers to each call."""
    events = reach(server, lambda client: client.list_events(session.id, types=("tool.completed",)))
    told = [json.loads(data_of(event).result[0].text)["answers"] for event in events]
    return [[each.get("answer") for each in answers] for answers in told]


def asks(*questions: dict[str, Any]) -> str:
    return script(asking(*questions), {"text": "Thank you."})


def test_a_person_answers_the_agents_questions(
    sqlite_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = new_session(sqlite_server)
    status, shown = converse(
        sqlite_server, session, asks(COLOUR, WHY), "9", "1", "Just so.", "/quit", monkeypatch=monkeypatch
    )
    assert (status, answers_in(sqlite_server, session)) == (0, [["red", "Just so."]])
    assert "Enter a number from 1 to 2." in shown
    assert shown.index("? Which colour?") < shown.index("? Why?") < shown.index("Thank you.")


def test_an_answer_that_the_server_refuses_is_asked_for_again(
    sqlite_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = new_session(sqlite_server)
    status, shown = converse(
        sqlite_server, session, asks(WHY), "x" * 10_001, "Short.", monkeypatch=monkeypatch
    )
    assert (status, answers_in(sqlite_server, session)) == (0, [["Short."]])
    assert shown.count("? Why?") == 2
    assert "error: " in shown


def test_a_question_that_somebody_else_answers_meanwhile_ends_with_a_note(
    sqlite_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = new_session(sqlite_server)

    def be_faster() -> None:
        reach(sqlite_server, lambda client: client.answer_questions(session.id, "q1", {"colour": "blue"}))

    status, shown = converse(sqlite_server, session, asks(COLOUR), be_faster, "1", monkeypatch=monkeypatch)
    assert (status, answers_in(sqlite_server, session)) == (0, [["blue"]])
    assert shown.index("error: ") < shown.index("Thank you.")


@pytest.mark.parametrize("key", [[CTRL_C], []], ids=["C-c", "C-d"])
def test_leaving_a_question_cancels_its_turn(
    sqlite_server: Server, monkeypatch: pytest.MonkeyPatch, key: list[str]
) -> None:
    session = new_session(sqlite_server)
    status, shown = converse(sqlite_server, session, asks(COLOUR), *key, monkeypatch=monkeypatch)
    ended = reach(sqlite_server, lambda client: client.list_events(session.id, types=("turn.cancelled",)))
    assert (status, len(ended)) == (0, 1)
    assert "Thank you." not in shown


def test_leaving_the_question_for_an_approval_cancels_its_turn(
    sqlite_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = careful(sqlite_server)
    turn = script({"tool_calls": [deletion()]}, {"text": "Gone."})
    status, shown = converse(sqlite_server, session, turn, CTRL_C, monkeypatch=monkeypatch)
    ended = reach(sqlite_server, lambda client: client.list_events(session.id, types=("turn.cancelled",)))
    assert (status, len(ended)) == (0, 1)
    assert "allow delete_file to run?" in shown.replace("\n", " ")


def test_an_approval_that_is_decided_elsewhere_meanwhile_is_told(
    sqlite_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = careful(sqlite_server)

    async def reject(client: Client) -> None:
        (item,) = (await client.list_inbox(session_id=session.id)).data
        await client.decide_inbox_item(item.id, "reject")
        async for event in client.follow(session.id):
            if event.type == "session.idled":
                return

    turn = script({"tool_calls": [deletion()]}, {"text": "Kept."})
    status, shown = converse(
        sqlite_server, session, turn, lambda: reach(sqlite_server, reject), "y", monkeypatch=monkeypatch
    )
    assert status == 0
    assert "error: " in shown
    done = reach(sqlite_server, lambda client: client.list_events(session.id, types=("tool.completed",)))
    assert "rejected" in [data_of(each).status for each in done]
    kept = reach(sqlite_server, lambda client: client.read_file(session.id, "/a.md"))
    assert kept == b"Old.\n"


def careful(server: Server) -> Session:
    """A session whose agent must ask before it deletes a file."""
    (given,) = CAREFUL["capabilities"]
    return new_session(
        server,
        capabilities=(CapabilityRef(given["ref"], given["config"]),),
        initial_files=(FILE,),
    )


def test_what_was_asked_before_is_asked_at_once(
    sqlite_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = new_session(sqlite_server)

    async def wait(client: Client) -> None:
        await client.send_message(session.id, asks(COLOUR))
        async for event in client.follow(session.id):
            if event.type == "act.completed":
                return

    reach(sqlite_server, wait)
    status, shown = converse(sqlite_server, session, "2", "/quit", monkeypatch=monkeypatch)
    assert (status, answers_in(sqlite_server, session)) == (0, [["blue"]])
    assert "Thank you." in shown


def test_commands_that_have_nothing_to_do_say_so(
    sqlite_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = new_session(sqlite_server)
    status, shown = converse(
        sqlite_server, session, "/answer", "", "/nonsense", "/attach /not/there", monkeypatch=monkeypatch
    )
    assert status == 0
    assert "Nothing asks you for anything." in shown
    assert "unknown command /nonsense" in shown
    assert "error: " in shown


# --- in a pipe --------------------------------------------------------------------


def piped(server: Server, given: Iterable[str], monkeypatch: pytest.MonkeyPatch, **chosen: Any) -> int:
    monkeypatch.setattr(sys, "stdin", given)
    session_id, model = chosen.get("session_id"), chosen.get("model")
    return chat(Client(server.url), session_id, None, model, None, {})


def test_a_line_that_fails_does_not_keep_the_next_from_its_answer(
    sqlite_server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fails, answers = (
        script({"fail": {"code": "provider_auth", "message": "bad key"}}),
        script({"text": "Here."}),
    )
    lines = f"{fails}\n\n{answers}\n"
    assert piped(sqlite_server, io.StringIO(lines), monkeypatch) == 1
    done = capsys.readouterr()
    assert done.out == "Here.\n"
    assert done.err.startswith("error: bad key")


def test_in_a_pipe_the_next_line_answers_a_question(
    sqlite_server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    session = new_session(sqlite_server)
    status = piped(sqlite_server, io.StringIO(f"{asks(COLOUR)}\n2\n"), monkeypatch, session_id=session.id)
    assert (status, answers_in(sqlite_server, session)) == (0, [["blue"]])
    assert capsys.readouterr().out == "Thank you.\n"


def test_ctrl_c_ends_a_pipe_with_the_status_of_an_interrupt(
    sqlite_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(io.StringIO):
        def __next__(self) -> str:
            raise KeyboardInterrupt

    assert piped(sqlite_server, Interrupted(), monkeypatch) == 130


def test_a_model_that_the_server_does_not_have_is_named_with_those_it_has(
    sqlite_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CommandFailed, match=r"no model named 'none'; its models: .*sim"):
        piped(sqlite_server, io.StringIO(""), monkeypatch, model="none")
