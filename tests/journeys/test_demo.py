"""`perdure demo`, and the guide, do what they say."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import psutil

from perdure.client import Client, is_live
from tests.command import LIMIT, PERDURE, Terminal, environment, perdure
from tests.server import Server
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
    for part in ("SmolLM2", "→ get_current_time", "simulated model", "survivor", "kill -9", "All of this was checked"):
        assert part in done.out
    assert "\x1b" not in done.out
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert processes_with(str(tmp_path)) == []


async def test_ctrl_c_ends_the_demo_tidily(tmp_path: Path) -> None:
    terminal = Terminal(*PERDURE, "demo", **environment(TMPDIR=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "cache")))
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


async def test_a_demo_that_cannot_be_true_fails(tmp_path: Path) -> None:
    async with FakeServer(answers(401, {"error": {"type": "authentication_error", "message": "invalid key"}})) as vendor:
        done = await perdure("demo", limit=120, TMPDIR=str(tmp_path), ANTHROPIC_API_KEY="sk-wrong", ANTHROPIC_BASE_URL=vendor.url)
    assert done.status == 1
    assert "sk-wrong" not in done.out + done.err
    assert "error: the demo failed: the turn did not complete" in done.err
    assert list(tmp_path.iterdir()) == []


# --- the guides --------------------------------------------------------------------


async def test_the_getting_started_guide_works_as_written(server: Server, llama_url: str) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guide" / "getting-started.md").read_text("utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", guide, re.DOTALL)
    process = await asyncio.create_subprocess_exec(
        "bash", "-euo", "pipefail", "-c", "\n".join(blocks),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment(URL=server.url, LOCAL=llama_url),
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), LIMIT)
    assert process.returncode == 0, out.decode()
    (python,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", python.replace("http://127.0.0.1:9000", server.url), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    out, _ = await asyncio.wait_for(process.communicate(), LIMIT)
    assert process.returncode == 0, out.decode()
    assert len(out.split()) > 3
    async with Client(server.url) as client:
        titles = {session.title: session for session in (await client.list_sessions()).data}
        assert titles["Paris"].tags == ("trial", "geography")
        assert not any(is_live(event) for event in await client.list_events(titles["From Python"].id))
