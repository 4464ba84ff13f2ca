"""The command line without a server: how turns are printed, and that commands are documented."""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.main import get_command
from typer.testing import CliRunner

import perdure
from perdure.cli.failures import explain
from perdure.cli.main import app
from perdure.cli.render import Flow, TurnPrinter, brief
from perdure.cli.sessions import ago
from perdure.cli.terminal import Screen
from perdure.cli.texts import duration, exact_value, short
from perdure.client import ApiError, TurnFailed, Unreachable, WireEvent
from perdure.domain.ids import new_event_id, new_id
from perdure.domain.times import to_rfc3339
from perdure.settings import described

REFERENCE = (Path(__file__).parents[2] / "docs" / "reference" / "cli.md").read_text("utf-8")
AGENT = "agent_" + "0" * 32
TURN = new_id("turn")
USAGE = {"input_tokens": 1, "output_tokens": 2}
NOW = "2026-03-14T09:26:53.589793Z"


# --- the reference ----------------------------------------------------------------


def commands(command: Any, path: str = "perdure") -> Iterator[tuple[str, Any]]:
    """Return every command by its full name."""
    if not hasattr(command, "commands") or command.invoke_without_command:
        yield path, command
    if hasattr(command, "commands"):
        for name in command.list_commands(None):
            yield from commands(command.get_command(None, name), f"{path} {name}")


COMMANDS = dict(commands(get_command(app)))
SHARED = {"--url", "--token", "--org", "--help"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_documented(name: str) -> None:
    _, found, rest = REFERENCE.partition(f"\n## `{name}`\n")
    assert found, f"docs/reference/cli.md has no section `{name}`"
    section = rest.partition("\n## ")[0]
    options = {
        option for parameter in COMMANDS[name].params for option in parameter.opts if option.startswith("--")
    }
    assert {option for option in options - SHARED if f"`{option}`" not in section} == set()
    documented = set(re.findall(r"`(--[a-z-]+)`", section))
    assert documented - options - {"--version", "--since", "--types"} == set()


def test_no_section_describes_a_command_that_does_not_exist() -> None:
    assert set(re.findall(r"^## `(perdure [a-z -]+)`$", REFERENCE, re.MULTILINE)) == set(COMMANDS)


def test_every_command_has_a_help_text() -> None:
    assert all(command.help for command in COMMANDS.values())
    assert isinstance(app, typer.Typer)


FILE_OF_THE_REPOSITORY = re.compile(r"\bdocs/[\w./-]*|\b[\w-]+/[\w-]+\.md\b|\bthe guide\b")


def groups(command: Any) -> Iterator[Any]:
    """Return a command and all below it."""
    yield command
    for name in command.list_commands(None) if hasattr(command, "commands") else ():
        yield from groups(command.get_command(None, name))


def texts_of_programs() -> Iterator[tuple[str, str]]:
    """Every text in the source that is no docstring, with its place."""
    source = Path(perdure.__file__).parent
    for path in sorted(source.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        notes = {
            id(line.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            for line in node.body
            if isinstance(line, ast.Expr)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in notes:
                yield f"{path.relative_to(source)}:{node.lineno}", node.value


def test_no_help_text_names_a_file_that_an_installed_wheel_lacks() -> None:
    for command in groups(get_command(app)):
        options = (getattr(option, "help", None) or "" for option in command.params)
        shown = [command.help or "", command.epilog or "", *options]
        assert [each for each in shown if FILE_OF_THE_REPOSITORY.search(each)] == [], command.name
    for each in described():
        assert not FILE_OF_THE_REPOSITORY.search(each.meaning), each.variable


def test_no_text_of_the_program_names_a_file_that_an_installed_wheel_lacks() -> None:
    found = [(place, text) for place, text in texts_of_programs() if re.search(r"(?<!/)\bdocs/\w", text)]
    assert found == []


def test_all_settings_are_listed_with_their_defaults_and_meanings() -> None:
    result = CliRunner().invoke(app, ["settings"])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[::2] == [
        each.variable + (f" (default: {each.default})" if each.default else "") for each in described()
    ]
    assert "PERDURE_PORT (default: 9000)" in lines
    assert "    The port to listen on; 0 picks a free one." in lines


# --- a turn on the screen ------------------------------------------------------------


def event(kind: str, data: dict[str, Any], sequence: int = 1) -> WireEvent:
    wire = {
        "id": new_event_id(sequence),
        "type": kind,
        "ts": NOW,
        "session_id": new_id("session"),
        "sequence": sequence,
        "context": {},
        "data": data,
    }
    return msgspec.json.decode(msgspec.json.encode(wire), type=WireEvent)


def text(whole: str, message: str = "message_1", kind: str = "output.message.delta") -> WireEvent:
    return event(kind, {"turn_id": TURN, "delta": "?", "accumulated": whole, "message_id": message})


def completed(whole: str, message: str = "message_1", **more: Any) -> WireEvent:
    content = [{"type": "text", "text": whole}]
    return event(
        "output.message.completed",
        {"message": {"id": message, "role": "agent", "content": content, "created_at": NOW}, **more},
    )


def printed(*events: WireEvent, indent: str = "", width: int | None = None) -> str:
    """What a pipe gets; with a width: what a terminal gets, without its control sequences."""
    out = io.StringIO()
    console = Console(
        file=out,
        force_terminal=width is not None,
        width=width or 80,
        highlight=False,
        soft_wrap=True,
        color_system=None,
    )
    printer = TurnPrinter(Screen(console=console), indent=indent)
    for one in events:
        printer.show(one)
    printer.close()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())


def test_text_is_printed_once_even_if_pieces_repeat_or_are_lost() -> None:
    assert printed(
        text("He"), text("Hello"), text("He"), text("Hello you"), completed("Hello you.")
    ).endswith("Hello you.\n")
    assert printed(text("He"), text("Hello"), completed("Hello you.")) == "Hello you.\n"
    assert printed(completed("Hello.")) == "Hello.\n"
    assert printed(text("Hello."), completed("Hello.")) == "Hello.\n"


def test_a_text_that_starts_over_is_printed_again() -> None:
    assert (
        printed(text("One more"), text("Two"), completed("Two more."))
        == "One more\n(the model starts over)\nTwo more.\n"
    )


def test_thinking_is_printed_before_the_text_even_without_deltas() -> None:
    thought = event("reason.thinking.completed", {"turn_id": TURN, "thinking": "Hm, hm."})
    seen = text("Hm,", kind="reason.thinking.delta")
    assert printed(thought, completed("Yes.")) == "Hm, hm.\nYes.\n"
    assert printed(seen, text("Y"), thought, completed("Yes.")) == "Hm,\nYes.\n"


def test_tools_are_shown_with_arguments_results_and_times() -> None:
    started = event(
        "tool.started", {"tool_call": {"id": "1", "name": "look_up", "arguments": {"order": 4711}}}
    )
    done = {"tool_call_id": "1", "tool_name": "look_up"}
    good = event(
        "tool.completed",
        {
            **done,
            "success": True,
            "status": "success",
            "result": [{"type": "text", "text": "a\nb"}],
            "duration_ms": 12,
        },
    )
    bad = event("tool.completed", {**done, "success": False, "status": "timeout", "error": "too slow"})
    image = event(
        "tool.completed",
        {**done, "success": True, "status": "success", "result": [{"type": "image", "url": "https://x"}]},
    )
    progress = event("tool.progress", {"tool_call_id": "1", "tool_name": "look_up", "message": "half way"})
    assert printed(text("I look."), started, progress, good, bad, image) == (
        'I look.\n→ look_up {"order":4711}\n  look_up: half way\n'
        "← look_up a b (12 ms)\n← look_up timeout: too slow\n"
        '← look_up [{"type":"image","url":"https://x"}]\n'
    )


def test_the_end_of_a_turn_is_shown_unless_it_completed() -> None:
    failed = event("turn.failed", {"turn_id": TURN, "error": "bad key", "error_code": "provider_auth"})
    assert printed(completed("Sorry.", error_code="provider_auth"), failed) == "✗ bad key (provider_auth)\n"
    assert printed(event("turn.cancelled", {"turn_id": TURN})) == "cancelled\n"
    assert (
        printed(event("turn.sealed", {"turn_id": TURN, "reason": "no_progress"}))
        == "✗ the turn was sealed: no_progress (turn_sealed)\n"
    )
    assert printed(event("turn.completed", {"turn_id": TURN, "iterations": 1})) == ""


def test_the_output_of_a_model_cannot_control_the_terminal() -> None:
    shown = printed(text("a\x1b[2Jb\x07"), completed("a\x1b[2Jb\x07\x9b1mc\td\n"))
    assert shown == "a\\u001b[2Jb\\u0007\\u009b1mc      d\n\n"
    started = {"tool_call": {"id": "1", "name": "x\x1b", "arguments": "[red]\x1b"}}
    assert printed(event("tool.started", started)) == "→ x\\u001b [red]\\u001b\n"


def test_a_character_that_arrives_in_two_pieces_is_shown_whole() -> None:
    family = "\U0001f468\u200d\U0001f469 a\r\nb\u200d"
    pieces = [text(family[:end]) for end in range(1, len(family) + 1)]
    assert printed(*pieces, completed(family)) == "\U0001f468\u200d\U0001f469 a\nb\\u200d\n"


def test_on_a_terminal_text_stays_in_its_column_and_wraps_between_words() -> None:
    shown = printed(
        text("one two thr"),
        text("one two three four\nfi"),
        completed("one two three four\nfive"),
        indent="  ",
        width=12,
    )
    assert shown == "  one two\n  three four\n  five\n"


@given(
    st.text(alphabet="ab \n\t漢", max_size=80), st.lists(st.integers(0, 80), max_size=6), st.integers(1, 20)
)
def test_wrapping_text_loses_only_white_space_at_line_breaks(whole: str, cuts: list[int], width: int) -> None:
    edges = [0, *sorted(cuts), len(whole)]
    flow = Flow("  ", width)
    shown = "".join(flow.feed(whole[a:b]) for a, b in pairwise(edges)) + flow.end()
    assert shown.split() == whole.split()
    plain = Flow("", None)
    assert plain.feed(whole) + plain.end() == re.sub(r"[ \t]+(?=\n|$)", "", whole)


# --- texts and numbers ------------------------------------------------------------------


def test_durations_are_formatted_for_people() -> None:
    assert [duration(ms) for ms in (None, 0.42, 12.3, 3_400, 125_000)] == [
        "",
        "0.4 ms",
        "12 ms",
        "3.4 s",
        "2 min 5 s",
    ]


def test_values_are_shown_in_one_line() -> None:
    assert short({"a": [1, "x"]}) == '{"a":[1,"x"]}'
    assert short("one\n two\tthree", 9) == "one two… 5 more characters"


def test_what_will_run_is_shown_exactly_and_a_cut_says_how_much_is_missing() -> None:
    hidden = {"command": "ls" + " " * 2000 + "; rm -rf \u202e~\u00a0\n"}
    whole = '{"command":"ls␠\N{MULTIPLICATION SIGN}2000; rm -rf \\u202e~\\u00a0\\n"}'
    assert exact_value(hidden) == whole
    assert exact_value("x" * 2100, 2000) == "x" * 2000 + "… 100 more characters"
    assert [exact_value(each) for each in ("\n", r"\u000a", ["\n"])] == [r"\n", r"\u000a", r'["\n"]']


def test_times_are_formatted_for_people() -> None:
    import time

    now = time.time_ns() // 1000
    spans = {0: "just now", 61: "1 minute ago", 7_300: "2 hours ago", 90_000: "1 day ago"}
    assert [ago(to_rfc3339(now - seconds * 1_000_000)) for seconds in spans] == list(spans.values())


@pytest.mark.parametrize(
    ("kind", "data", "words"),
    [
        ("output.message.delta", {"turn_id": TURN, "delta": "Hel\nlo", "accumulated": "x"}, "Hel lo"),
        ("tool.started", {"tool_call": {"id": "1", "name": "x", "arguments": {}}}, "x {}"),
        ("tool.call_requested", {"tool_calls": [{"id": "1", "name": "x", "arguments": {}}]}, "x"),
        ("turn.completed", {"turn_id": TURN, "iterations": 2, "duration_ms": 1500}, "2 model call(s), 1.5 s"),
        (
            "turn.failed",
            {"turn_id": TURN, "error": "no", "error_code": "provider_auth"},
            "no (provider_auth)",
        ),
        (
            "file.written",
            {"path": "/a", "operation": "write", "created": True, "size_bytes": 3},
            "/a 3 bytes",
        ),
        (
            "llm.generation",
            {"metadata": {"model": "m", "success": True, "usage": USAGE}, "output": {}},
            "m 1 in, 2 out,",
        ),
        (
            "session.handed_off",
            {
                "tool_call_id": "c",
                "to_agent_id": AGENT,
                "to_agent_name": "billing",
                "history": "full",
                "reason": "A bill.",
            },
            "to billing A bill.",
        ),
        (
            "output.message.completed",
            {
                "message": {
                    "id": "message_" + "0" * 32,
                    "role": "agent",
                    "content": [{"type": "text", "text": "Three."}],
                    "created_at": "2026-03-14T09:26:53Z",
                    "author": {"agent_id": AGENT, "agent_name": "billing"},
                }
            },
            "billing: Three.",
        ),
        ("some.thing.newer", {"a": 1}, ""),
    ],
)
def test_an_event_has_a_short_line(kind: str, data: dict[str, Any], words: str) -> None:
    assert brief(event(kind, data)).strip() == words


def test_errors_name_the_next_step_if_there_is_one() -> None:
    assert "perdure serve" in explain(Unreachable("no answer"))
    assert "PERDURE_TOKEN" in explain(ApiError(401, "unauthenticated", "give a token", {}))
    assert "perdure providers add" in explain(
        TurnFailed("turn.failed", TURN, "no model", "model_not_configured")
    )
    assert "--org" in explain(ApiError(400, "organization_required", "name one in the X-Org-Id header", {}))
    held = new_id("session")
    said = explain(ApiError(409, "session_held", f"the session {held} is under legal hold", {}))
    assert f"`perdure erase hold --release {held}`" in said
    assert "entity_ref" not in explain(ApiError(400, "invalid_id", "`entity_ref` must be a name", {}))
    assert "perdure sessions list" in explain(ApiError(404, "session_not_found", "no such session", {}))
    assert "another program" in explain(ApiError(404, "http_404", "the server answered with status 404", {}))
    assert explain(ApiError(409, "conflict", "not now", {})) == "not now"
