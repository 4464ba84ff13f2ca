"""`perdure audit`: what it asks for, what it refuses, and how entries are shown."""

from __future__ import annotations

import asyncio
import io
import stat
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner, Result

from perdure.cli import audit, spend
from perdure.cli.moments import moment
from perdure.cli.terminal import Part, Screen
from perdure.domain.texts import size_text
from tests.unit.fake_server import FakeServer, Reply, Request
from tests.unit.test_cli_limits import NOW, ORG, WHO

ENTRY = {
    "id": "audit_01a230ab148f7062a7d3445de4440940",
    "organization_id": ORG,
    "created_at": NOW,
    "action": "agent.updated",
    "outcome": "denied",
    "entity": {"type": "agent", "id": "agent_" + "0" * 32, "name": "desk"},
    "actor": {"type": "token", "id": WHO["id"], "name": "Ada", "token_id": "token_" + "1" * 32},
    "operation": "update_agent",
    "before": {"description": "One", "tags": ["a"]},
    "after": {"description": "Two\x1b[2J", "name": "desk"},
    "reason": "Why not",
    "address": "192.0.2.7",
    "user_agent": "perdure-cli",
}


async def run(found: list[Any], *arguments: str) -> tuple[Result, list[Request]]:
    """Run the command; the log has these entries for each request in turn, the last ones from then on."""
    left = list(found)

    async def handle(request: Request, reply: Reply) -> None:
        if request.path == "/v1/auth/me":
            await reply.json(200, WHO)
        else:
            data = left.pop(0) if len(left) > 1 else left[0]
            await reply.json(200, {"data": data, "has_more": False})

    async with FakeServer(handle) as server:
        command = [*arguments, "--url", server.url]
        result = await asyncio.to_thread(CliRunner().invoke, audit.app, command)
    return result, [each for each in server.requests if each.path != "/v1/auth/me"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--type", "agents"), "is agent or agent_version meant?"),
        (("--action", "agent.deleted"), "agent.archived, agent.created"),
        (("--action", "sessoin.created"), "session.created"),
        (("--action", "zzz*"), "The kinds are agent, agent_version"),
        (("--type", "zzz"), "The kinds are agent, agent_version"),
    ],
)
async def test_a_kind_or_an_action_that_nothing_has_is_refused_with_those_that_exist(
    arguments: tuple[str, ...], said: str
) -> None:
    for more in ((), ("--follow",), ("--export", "never-written.csv")):
        result, (request,) = await run([[]], *arguments, *more)
        assert result.exit_code == 2
        assert request.query["limit"] == ["1"]
        assert said in " ".join(result.output.replace("│", " ").split())
    assert not Path("never-written.csv").exists()


async def test_what_a_newer_server_has_is_shown_all_the_same() -> None:
    result, requests = await run([[ENTRY]], "--type", "robot", "--action", "robot.*")
    assert (result.exit_code, len(requests)) == (0, 3)
    result, requests = await run([[]], "--type", "agent", "--action", "agent.*")
    assert (result.exit_code, len(requests)) == (0, 1)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--export", "x", "--limit", "3"),
        ("--export", "x", "--follow"),
        ("--export", "x", "--json"),
        ("--export", "x.csv", "--format", "ndjson"),
        ("--export", "x", "--format", "xml"),
        ("--format", "csv"),
        ("--force",),
        ("--follow", "--until", "2026-03-14"),
        ("--since", "yesterday"),
        ("--limit", "3", "show", ENTRY["id"]),
        ("show", "nonsense"),
        ("show", "0123"),
    ],
)
async def test_what_makes_no_sense_is_refused_before_anything_is_sent(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result, requests = await run([[]], *arguments)
    assert (result.exit_code, requests, list(tmp_path.iterdir())) == (2, [], [])


async def test_an_export_is_private_replaces_nothing_and_is_as_its_name_ends(tmp_path: Path) -> None:
    for name, form in (("a.csv", "csv"), ("a.CSV", "csv"), ("a.ndjson", "ndjson"), ("a", "ndjson")):
        path = tmp_path / name
        result, requests = await run([[ENTRY]], "--export", str(path))
        assert (result.exit_code, requests[-1].query["format"]) == (0, [form]), result.output
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("mine")
    result, requests = await run([[ENTRY]], "--export", str(path))
    assert (result.exit_code, requests, path.read_text()) == (1, [], "mine")
    assert "--force" in str(result.exception)
    result, _ = await run([[ENTRY]], "--export", str(path), "--force")
    assert (result.exit_code, "mine" in path.read_text()) == (0, False)
    for wrong in (tmp_path, tmp_path / "none" / "x", path / "x"):
        result, _ = await run([[ENTRY]], "--export", str(wrong))
        assert (result.exit_code, type(result.exception).__name__) == (1, "CommandFailed")
        assert str(wrong) in str(result.exception)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "a.CSV", "a.csv", "a.ndjson"]


async def test_one_entry_is_shown_whole_with_what_has_changed() -> None:
    result, (request,) = await run([[ENTRY]], "show", ENTRY["id"])
    digits = ENTRY["id"].removeprefix("audit_")  # type: ignore[attr-defined]
    assert request.query["after"] == [f"audit_{int(digits, 16) - 1:032x}"]
    assert request.query["before"] == [f"audit_{int(digits, 16) + 1:032x}"]
    lines = result.stdout.splitlines()
    for part in ("denied", "Ada", "192.0.2.7", "Why not", "update_agent", "perdure-cli", NOW):
        assert any(part in line for line in lines), part
    assert lines[lines.index("description") :] == [
        "description", "  - One", "  + Two\\u001b[2J", "tags", '  - ["a"]', "name", "  + desk"
    ]  # fmt: skip
    result, (request,) = await run([[ENTRY]], "show", digits[:16])
    assert request.query["before"] == [f"audit_{int(digits[:16], 16) + 1:016x}{'0' * 16}"]
    result, _ = await run([[ENTRY, ENTRY]], "show", digits[:16])
    assert "several entries" in str(result.exception)
    result, _ = await run([[]], "show", digits)
    assert "no entry" in str(result.exception)
    for end in ("0", "f"):
        result, _ = await run([[]], "show", end * 32)
        assert "no entry" in str(result.exception)


@pytest.mark.parametrize("width", [80, 110, 200])
def test_each_row_of_the_table_is_one_line_of_any_terminal(width: int) -> None:
    def written(rows: list[tuple[str, ...]]) -> list[str]:
        out = io.StringIO()
        console = Console(file=out, width=width, force_terminal=True, color_system=None, highlight=False)
        Screen(console=console).table(audit._COLUMNS, rows, cut=audit._CUT)
        return out.getvalue().splitlines()

    row = ("0" * 16, "2026-03-14 09:26", "Ada " * 9, "agent_version.created denied", "目" * 40, "x" * 90, "w")
    assert len(written([row] * 3)) == 4
    short = ("0" * 16, "2026-03-14 09:26", "Ada", "agent.updated", "desk", "description", "")
    lines = written([short])
    assert len(lines) == 2
    assert ("description" in lines[1]) is (width >= 80)


def test_a_terminal_without_room_for_a_table_gets_a_line_for_each_cell() -> None:
    turn = f"session_{'0' * 32}.turn_{'0' * 32}"
    rows: list[tuple[Part, ...]] = [
        (turn, ("sealed", "red"), "3", NOW, "It died. " * 3),
        (turn, "", "", "", ""),
    ]
    names = ("ID", "STATE", "ATTEMPTS", "SINCE", "WHY")
    for cut in ((), ("SINCE", "WHY")):
        for width, lines in ((80, 7), (200, 3)):
            out = io.StringIO()
            console = Console(file=out, width=width, force_terminal=True, color_system=None, soft_wrap=True)
            Screen(console=console).table(names, rows, cut=cut)
            said = out.getvalue()
            assert said.count(turn) == 2, "an id is never cut"
            assert len(said.splitlines()) == lines
            assert ("ATTEMPTS  3" in said) is (width == 80)


def test_times_may_be_dates_and_limits_are_told_for_people() -> None:
    assert moment("2026-01-01", "--since") == "2026-01-01T00:00:00+00:00"
    assert moment("2026-01-01T10:00", "--since") == "2026-01-01T10:00:00+00:00"
    assert moment("2026-01-01T10:00:00Z", "--since") == "2026-01-01T10:00:00+00:00"
    assert moment("2026-01-01T10:00:00+02:00", "--since") == "2026-01-01T10:00:00+02:00"
    assert moment(None, "--since") is None
    for wrong in ("", "yesterday", "2026-13-01", "12"):
        with pytest.raises(typer.BadParameter, match="neither a date"):
            moment(wrong, "--since")
    sizes = {104_857_600: "100 MB", 104_923_136: "100 MB", 10_000_000: "10 MB", 100_000: "100 KB"}
    sizes |= {65_536: "64 KB", 999: "999 bytes", 1_234_567: "1,234,567 bytes"}
    assert {size: size_text(size) for size in sizes} == sizes


async def test_calls_are_written_to_no_file_that_exists(tmp_path: Path) -> None:
    command = typer.Typer()
    command.command()(spend.spend)
    path = tmp_path / "calls.csv"
    path.write_text("mine")
    for arguments in (["--csv", str(path)], ["--force"], ["--csv", str(path), "--json", "--force"]):
        result = await asyncio.to_thread(
            CliRunner().invoke, command, [*arguments, "--url", "http://127.0.0.1:1"]
        )
        assert result.exit_code in (1, 2)
    assert path.read_text() == "mine"
