"""The demo's server: it starts or says why not, and ends however it behaves."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from perdure.cli import demo_server
from perdure.cli.common import CommandFailed
from perdure.cli.demo_server import DemoServer


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in place of Python's; the test writes it."""
    file = tmp_path / "program"
    file.touch()
    file.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(file))
    return file


READY = 'echo "starting"; echo "listening on http://127.0.0.1:8123"\n'


async def test_a_server_that_is_ready_is_stopped_by_a_signal(tmp_path: Path, program: Path) -> None:
    ends = 'trap "echo ended >&2; exit 0" TERM\n'
    program.write_text(f"#!/bin/sh\n{ends}{READY}while :; do sleep 0.01; done\n")
    server = DemoServer(tmp_path)
    await server.stop()
    await server.kill()
    assert server.pid == 0
    await server.start()
    assert (server.url, server.port) == ("http://127.0.0.1:8123", 8123)
    assert server.pid > 0
    await server.stop()
    assert (server.pid, server.log_end()) == (0, "ended")


async def test_a_server_that_ignores_the_signal_is_killed(
    tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_server, "STOP_TIMEOUT", 0.02)
    program.write_text(f'#!/bin/sh\ntrap "" TERM\n{READY}exec sleep 60\n')
    server = DemoServer(tmp_path)
    await server.start()
    pid = server.pid
    await server.stop()
    assert server.pid == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_server_that_ends_at_once_says_why_in_its_log(tmp_path: Path, program: Path) -> None:
    program.write_text('#!/bin/sh\necho "no room on the disk" >&2\nexit 1\n')
    server = DemoServer(tmp_path)
    assert server.log_end() == "(the log is empty)"
    with pytest.raises(CommandFailed, match="did not start:\nno room on the disk"):
        await server.start()
    assert server.pid == 0


async def test_a_server_that_is_never_ready_is_given_up(
    tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_server, "START_TIMEOUT", 0.05)
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    server = DemoServer(tmp_path)
    with pytest.raises(CommandFailed, match=r"\(the log is empty\)"):
        await server.start()
    assert server.pid == 0
