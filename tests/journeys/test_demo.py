"""`perdure demo` does what it says."""

from __future__ import annotations

import asyncio
import shlex
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.command import PERDURE, Terminal, environment, perdure
from tests.unit.fake_server import FakeServer, answers

# --- the demo ----------------------------------------------------------------------


def processes_with(text: str) -> list[psutil.Process]:
    """Running processes that have this in their command line."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(text in argument for argument in process.info["cmdline"] or ())
    ]


async def test_the_demo_shows_what_it_promises_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = await perdure("demo", limit=120, TMPDIR=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.status == 0, done.out + done.err
    for part in (
        "SmolLM2",
        "→ get_current_time",
        "simulated model",
        "survivor",
        "kill -9",
        "Everything above was verified",
    ):
        assert part in done.out
    assert "\x1b" not in done.out
    shown = [line for line in done.out.splitlines() if "  # " in line]
    commands = [" ".join(shlex.split(line, comments=True)) for line in shown]
    for command, end in zip(commands, ("serve --local-model", "chat", "providers add openai"), strict=True):
        assert command.endswith(f"perdure {end}")
    for line in shown:
        pasted = line.replace("  # ", " --help  # ")
        process = await asyncio.create_subprocess_exec("sh", "-c", pasted, stdout=subprocess.PIPE)
        assert (await process.communicate())[0].decode().strip()
        assert process.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert processes_with(str(tmp_path)) == []


@pytest.mark.soak
async def test_ctrl_c_ends_the_demo_tidily(tmp_path: Path) -> None:
    terminal = Terminal(
        *PERDURE, "demo", **environment(TMPDIR=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "cache"))
    )
    try:
        await terminal.see("kill -9")
        await terminal.see("restart")
        terminal.type("\x03")
        assert await terminal.end() == 130
    finally:
        terminal.close()
    assert "Traceback" not in terminal.whole
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert processes_with(str(tmp_path)) == []


@pytest.mark.soak
async def test_the_demo_uses_a_vendors_model_when_there_is_a_key(tmp_path: Path, llama_url: str) -> None:
    done = await perdure(
        "demo",
        limit=120,
        TMPDIR=str(tmp_path),
        OPENAI_API_KEY="sk-anything",
        OPENAI_BASE_URL=llama_url,
        PERDURE_DEMO_MODEL="smollm2-135m",
    )
    assert done.status == 0, done.out + done.err
    assert "because OPENAI_API_KEY is set" in done.out
    assert "sk-anything" not in done.out + done.err


async def test_a_demo_whose_checks_fail_exits_with_an_error(tmp_path: Path) -> None:
    async with FakeServer(
        answers(401, {"error": {"type": "authentication_error", "message": "invalid key"}})
    ) as vendor:
        done = await perdure(
            "demo",
            limit=120,
            TMPDIR=str(tmp_path),
            ANTHROPIC_API_KEY="sk-wrong",
            ANTHROPIC_BASE_URL=vendor.url,
        )
    assert done.status == 1
    assert "sk-wrong" not in done.out + done.err
    assert "error: the provider refuses `api_key`, so nothing was stored: invalid key" in done.err
    assert list(tmp_path.iterdir()) == []
