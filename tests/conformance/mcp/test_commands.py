"""Local MCP servers: processes that die, hang, and print what they should not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import time
from pathlib import Path

import psutil
import pytest

import perdure
from perdure.domain.mcp import McpAnswers, McpInputRequired, McpLost, McpUnreachable
from perdure.net.mcp import over_stdio
from perdure.net.mcp.endpoints import McpStdioEndpoint
from tests import mcp_scripts
from tests.mcp_scripts import Talk, settled

PROGRAM = str(Path(mcp_scripts.__file__).with_name("mcp_command.py"))


def talk_to(*habits: str, **fields: object) -> Talk:
    return Talk(McpStdioEndpoint("local", sys.executable, (PROGRAM, *habits), **fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("era", ["stateless", "legacy"])
async def test_a_command_is_listed_and_called_in_both_eras(era: str) -> None:
    async with talk_to(era) as talk:
        offer = await talk.hosts.offer(talk.endpoint, timeout=20)
        assert (offer.era, [tool.name for tool in offer.tools]) == (era, ["act"])
        assert await talk.said(arguments={"a": 1}) == 'did {"a": 1}'


@pytest.mark.parametrize("era", ["stateless", "legacy"])
async def test_scopes_share_a_process_only_in_the_stateless_era(era: str) -> None:
    async with talk_to(era) as talk:
        pids = [await talk.said(arguments={"do": "pid"}, scope=scope) for scope in ("one", "two", "one")]
        assert pids[0] == pids[2]
        assert (pids[0] == pids[1]) == (era == "stateless")
        talk.hosts.forget("two")
        if era == "legacy":
            await settled(lambda: not psutil.pid_exists(int(pids[1])))
            assert psutil.pid_exists(int(pids[0]))


async def test_a_command_that_dies_loses_the_call_and_starts_again() -> None:
    async with talk_to("legacy") as talk:
        await talk.call()
        before = talk.hosts.changes(talk.endpoint)
        with pytest.raises(McpLost, match="closed its output"):
            await talk.call(arguments={"do": "die"})
        assert await talk.said() == "did {}"
        assert talk.hosts.changes(talk.endpoint) > before


async def test_a_command_that_always_dies_is_not_started_all_the_time() -> None:
    async with talk_to("dies at once") as talk:
        began = time.monotonic()
        for _ in range(20):
            with pytest.raises(McpUnreachable):
                await talk.hosts.offer(talk.endpoint, timeout=10)
        with pytest.raises(McpUnreachable, match="starts again in"):
            await talk.hosts.offer(talk.endpoint, timeout=10)
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("habit", ["silent", "dies of questions"])
async def test_an_older_command_may_ignore_the_probe_or_die_of_it(
    habit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(over_stdio, "SILENCE", 0.5)
    async with talk_to(habit) as talk:
        if habit == "dies of questions":
            with pytest.raises(McpUnreachable):
                await talk.hosts.offer(talk.endpoint, timeout=10)
        assert (await talk.hosts.offer(talk.endpoint, timeout=10)).era == "legacy"


@pytest.mark.parametrize("era", ["stateless", "legacy"])
async def test_a_command_that_falls_silent_is_replaced(era: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(over_stdio, "ALIVE", 0.2)
    async with talk_to(era) as talk:
        await talk.call()
        with pytest.raises(McpLost, match="did not answer within"):
            await talk.call(arguments={"do": "freeze"}, timeout=0.3)
        before = await talk.said(arguments={"do": "pid"}, scope="other") if era == "legacy" else ""

        async def works() -> bool:
            with contextlib.suppress(McpLost, McpUnreachable):
                return (await talk.said(arguments={"do": "pid"}, timeout=1)).isdigit()
            return False

        async with asyncio.timeout(20):
            while not await works():
                pass
        assert before == "" or await talk.said(arguments={"do": "pid"}, scope="other") == before


async def test_a_command_that_is_silent_for_long_and_then_answers_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(over_stdio, "ALIVE", 10.0)
    async with talk_to("stateless") as talk:
        before = await talk.said(arguments={"do": "pid"})
        for _ in range(3):
            with pytest.raises(McpLost):
                await talk.call(arguments={"do": "hang"}, timeout=0.2)
        assert await talk.said(arguments={"do": "pid"}) == before


async def test_commands_end_with_a_host_that_is_killed(tmp_path: Path) -> None:
    program = tmp_path / "host.py"
    program.write_text(HOST)
    host = await asyncio.create_subprocess_exec(
        sys.executable,
        *(str(program), PROGRAM, "legacy", "stubborn"),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(perdure.__file__).parents[1])},
    )
    assert host.stdout is not None
    pids = [int(each) for each in (await host.stdout.readline()).split()]
    assert len(pids) == 2
    assert all(map(psutil.pid_exists, pids))
    host.kill()
    await host.wait()
    async with asyncio.timeout(30):
        while any(map(_runs, pids)):
            await asyncio.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


HOST = """
import asyncio, sys
from perdure.domain.mcp import McpTool
from perdure.net.mcp.endpoints import McpStdioEndpoint
from perdure.net.mcp.hosts import McpHosts

async def main():
    hosts = McpHosts()
    endpoint = McpStdioEndpoint("local", sys.executable, tuple(sys.argv[1:]))
    async def call(do):
        found = await hosts.call(
            endpoint, scope="s", tool=McpTool("act"), arguments={"do": do}, meta={}, extra_headers={},
            timeout=20, idempotent=False, progress=print,
        )
        return found.content[0]["text"]
    print(await call("pid"), await call("children"), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_command_that_does_not_exist_is_named() -> None:
    async with Talk(McpStdioEndpoint("local", "/no/such/program")) as talk:
        with pytest.raises(McpUnreachable, match="local cannot be started: No such file"):
            await talk.call()


async def test_an_answer_after_the_timeout_is_dropped() -> None:
    async with talk_to("stateless") as talk:
        await talk.call()
        with pytest.raises(McpLost):
            await talk.call(arguments={"do": "answer late"}, timeout=0.2)
        assert await talk.said(arguments={"now": 1}) == 'did {"now": 1}'


@pytest.mark.parametrize("era", ["stateless", "legacy"])
async def test_what_a_command_prints_besides_messages_is_ignored(era: str) -> None:
    async with talk_to(era) as talk:
        assert await talk.said(arguments={"do": "chatter"}) == "after chatter"
        assert talk.hosts.changes(talk.endpoint) == 1
        assert await talk.said(arguments={"do": "deep"}) == "after it"


async def test_a_line_without_end_ends_the_command_in_little_memory() -> None:
    async with talk_to("legacy") as talk:
        await talk.call()
        before = psutil.Process().memory_info().rss
        with pytest.raises(McpLost, match="line of more than"):
            await talk.call(arguments={"do": "long line"})
        assert psutil.Process().memory_info().rss - before < 100 << 20
        assert await talk.said() == "did {}"


async def test_error_output_is_logged_in_bounds(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with talk_to("legacy") as talk:
        assert await talk.said(arguments={"do": "errors"}) == "after errors"
        await settled(lambda: "noise of the command" in caplog.text)
        assert await talk.said() == "did {}"
    assert 1 <= caplog.text.count("noise of the command") <= 20


async def test_a_command_gets_its_own_variables_and_not_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_MASTER_KEY", "secret-of-the-server")
    async with talk_to("legacy", env=(("TOKEN", "of-the-command"),)) as talk:
        seen = json.loads(await talk.said(arguments={"do": "environment"}))
        assert seen["TOKEN"] == "of-the-command"
        assert "PERDURE_MASTER_KEY" not in seen


@pytest.mark.parametrize("habit", ["legacy", "stubborn"])
async def test_a_command_ends_with_its_children_at_the_close(habit: str) -> None:
    async with talk_to(habit) as talk:
        pid = int(await talk.said(arguments={"do": "pid"}))
        child = int(await talk.said(arguments={"do": "children"}))
        assert psutil.pid_exists(pid)
        await talk.hosts.close()
        await settled(lambda: not psutil.pid_exists(pid))
        await settled(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie")
        with pytest.raises(McpUnreachable, match="stopped"):
            await talk.call()


async def test_a_question_ends_the_call_which_is_made_again_with_the_answer() -> None:
    async with talk_to("legacy", elicitation="url_and_form") as talk:
        required = await talk.call(arguments={"do": "ask"}, idempotent=True)
        assert isinstance(required, McpInputRequired)
        given = {required.requests[0].key: {"action": "accept", "content": {"name": "Ann"}}}
        answers = McpAnswers(given, required.state)
        said = json.loads(await talk.said(arguments={"do": "ask"}, answers=answers, idempotent=True))
        assert said["content"] == {"name": "Ann"}


async def test_calls_of_one_command_run_side_by_side() -> None:
    async with talk_to("stateless") as talk:
        await talk.call()
        slow = asyncio.create_task(talk.call(arguments={"do": "hang"}, timeout=1))
        said = await asyncio.gather(*(talk.said(arguments={"n": number}) for number in range(20)))
        assert said == [f'did {{"n": {number}}}' for number in range(20)]
        with pytest.raises(McpLost):
            await slow


async def test_idle_processes_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(over_stdio, "IDLE", 0.2)
    async with talk_to("legacy") as talk:
        pid = int(await talk.said(arguments={"do": "pid"}))
        await settled(lambda: not psutil.pid_exists(pid))
        assert await talk.said() == "did {}"


async def test_the_number_of_processes_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(over_stdio, "MAX_PROCESSES", 2)
    async with talk_to("legacy", protocol="legacy") as talk:
        pids = [int(await talk.said(arguments={"do": "pid"}, scope=str(scope))) for scope in range(4)]
        assert sum(map(psutil.pid_exists, pids)) <= 2
        hanging = [
            asyncio.create_task(talk.call(arguments={"do": "hang"}, scope=scope, timeout=2)) for scope in "23"
        ]
        await asyncio.sleep(0.5)
        with pytest.raises(McpUnreachable, match="at work"):
            await talk.call(scope="another")
        await asyncio.gather(*hanging, return_exceptions=True)
