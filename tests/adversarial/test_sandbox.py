"""A process that dies ends one call only.

Commands and statements that crash, hang or use too much memory, and what their processes inherit.
"""

from __future__ import annotations

import asyncio
import io
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pytest

from perdure.domain.errors import ToolError
from perdure.sandbox import child as sandbox_child
from perdure.sandbox import pool as sandbox_module
from perdure.sandbox.child import HEADER, Done, Failed, Frame, Output, Started, answer_to, serve
from perdure.sandbox.pool import AT_ONCE, KEPT, SHARES, Sandbox
from perdure.sandbox.room import Room
from perdure.sandbox.shell import ShellDone, ShellJob
from perdure.sandbox.sql import Answer, SchemaJob, SqlJob
from tests.adversarial.attack import done, use, works
from tests.server import Server, post, use_simulated_model
from tests.talk import PATIENCE, Talk, call, new_talk, script, when

CRASHES = {
    "a deep condition": "[[ -n x" + " && -n x" * 8_000 + " ]]",
    "a deep test": "[ " + "\\( " * 16_000 + "x" + " \\)" * 16_000 + " ]",
    "a deep value of jq": "jq -n '" + "[" * 20_000 + "1" + "]" * 20_000 + "'",
    "a recursion of jq": "jq -n '[recurse([.,.])]'",
    "a recursion of eval": 'x=\'eval "$x"\'; eval "$x"',
}
"""Each of these overflows the stack of its process."""
HANGS = "echo a > a; uniq -f 9999999999999999999 a"


def shell(command: str, seconds: float = 5.0, **files: bytes) -> ShellJob:
    return ShellJob(
        command, {f"/{name}": content for name, content in files.items()}, (), None, None, seconds
    )


def sql(statement: str, image: bytes = b"") -> SqlJob:
    return SqlJob(image, statement, b"null", reading=False)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    made = Sandbox(at_once=3)
    yield made
    await made.close()
    assert psutil.Process().children() == [] or not _ours()


def _ours() -> list[psutil.Process]:
    """The sandbox processes of this test process."""
    found = []
    for child in psutil.Process().children():
        try:
            if sandbox_child.MODULE in child.cmdline():
                found.append(child)
        except psutil.Error:  # it has ended meanwhile
            continue
    return found


async def echo(sandbox: Sandbox) -> str:
    return (await sandbox.run(shell("echo hi"), ShellDone, 5)).result.stdout


async def placed(
    sandbox: Sandbox, command: str, seconds: float, whose: tuple[str, ...] = (), size: int = 0
) -> str:
    """Run a command in a slot; returns its output."""
    async with sandbox.slot(whose, size):
        return (await sandbox.run(shell(command, seconds), ShellDone, seconds)).result.stdout


# --- a server whose tools are misused
# -------------------------------------------------------------------------------


@pytest.mark.parametrize("command", CRASHES.values(), ids=CRASHES.keys())
async def test_a_command_that_crashes_its_process_fails_and_changes_nothing(
    one: httpx.AsyncClient, command: str
) -> None:
    talk = await new_talk(one)
    await works(talk, "bash", command="echo kept > file; X=1")
    data = await use(talk, "bash", command=f"echo lost > file; X=2; {command}")
    assert (data["status"], data["error"].split(":")[0]) == ("error", "It was stopped")
    assert (await works(talk, "bash", command="cat file; echo $X"))["stdout"] == "kept\n1\n"


async def test_other_commands_continue_when_one_crashes(one: httpx.AsyncClient) -> None:
    talk = await new_talk(one)
    crash, fine = (
        call("bash", command=CRASHES["a recursion of eval"]),
        call("bash", command="sleep 0.3; echo fine"),
    )
    results = await done(talk, fine, crash, fine, crash, fine)
    assert [result["success"] for result in results] == [True, False, True, False, True]


async def test_a_command_that_the_shell_cannot_stop_is_killed(one: httpx.AsyncClient) -> None:
    began = time.monotonic()
    data = await use(await new_talk(one), "bash", command=HANGS, timeout=1)
    assert data["error"].startswith("It was stopped")
    assert time.monotonic() - began < PATIENCE


SWELLING = {
    "a hundred nested queries": "WITH "
    + ",".join(
        [
            "v0 AS (SELECT 1 AS a)",
            *(f"v{n} AS (SELECT x.a FROM v{n - 1} x, v{n - 1} y)" for n in range(1, 40)),
        ]
    )
    + " SELECT * FROM v39",
    "an aggregate": "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
    " SELECT count(DISTINCT printf('%.*c', 999000, 'x') || x) FROM c",
    "a sorter": "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
    " SELECT printf('%.*c', 999000, 'x') || x AS y FROM c ORDER BY y",
}


@pytest.mark.parametrize("statement", SWELLING.values(), ids=SWELLING.keys())
async def test_a_statement_that_uses_too_much_memory_is_stopped(
    one: httpx.AsyncClient, sqlite_server: Server, statement: str
) -> None:
    before = psutil.Process(sqlite_server.pid).memory_info().rss
    data = await use(
        await new_talk(one, capabilities=[{"ref": "session_sql_database"}]), "sql_execute", sql=statement
    )
    assert "than is allowed" in data["error"], data
    assert psutil.Process(sqlite_server.pid).memory_info().rss < before + 50_000_000


async def test_a_function_that_cannot_be_interrupted_is_killed(one: httpx.AsyncClient) -> None:
    many = (
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
        " SELECT sum(instr(printf('%.*c', 999000, 'x'),"
        " printf('%.*c', 400000, 'x') || 'y' || x)) FROM c"
    )
    talk = await new_talk(one, capabilities=[{"ref": "session_sql_database"}])
    assert (await use(talk, "sql_execute", sql=many))["error"].startswith("It was stopped")
    assert (await works(talk, "sql_execute", sql="CREATE TABLE t (a)"))["rows_affected"] == 0


async def test_a_cancelled_turn_ends_its_command(one: httpx.AsyncClient, sqlite_server: Server) -> None:
    talk = await new_talk(one)
    async with talk.follow(types="tool.output.delta") as stream:
        await talk.say(
            script(
                {"tool_calls": [call("bash", command="echo begun; sleep 100", timeout=100)]}, {"text": "x"}
            )
        )
        await stream.until("tool.output.delta")
    running = {each.pid for each in psutil.Process(sqlite_server.pid).children()}
    await talk.cancel()

    async def one_fewer() -> bool:
        return not running <= {each.pid for each in psutil.Process(sqlite_server.pid).children()}

    await when(one_fewer)


async def test_sandbox_processes_exit_with_the_server_even_when_busy(tmp_path: Path) -> None:
    async with (
        Server(tmp_path / "data") as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        await use_simulated_model(http)
        for command in ("echo rest", "echo begun; sleep 100", "echo begun; while :; do x=$x$x; x=; done"):
            talk = await new_talk(http)
            async with talk.follow(types="tool.output.delta") as stream:
                await talk.say(
                    script({"tool_calls": [call("bash", command=command, timeout=100)]}, {"text": "x"})
                )
                await stream.until("tool.output.delta")
        children = psutil.Process(server.pid).children()
        assert len(children) >= 2
        await server.kill()
        assert psutil.wait_procs(children, timeout=PATIENCE)[1] == []


# --- the processes
# ----------------------------------------------------------------------------------------------------


async def test_a_process_is_reused_and_only_a_few_idle_ones_are_kept(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_module, "SPARE_SECONDS", 0.2)
    assert await echo(sandbox) == "hi\n"
    (first,) = _ours()
    assert await echo(sandbox) == "hi\n"
    assert _ours() == [first]
    await asyncio.gather(*(sandbox.run(shell("sleep 0.2"), ShellDone, 5) for _ in range(3)))
    assert len(_ours()) == 3
    await when(lambda: _counted(KEPT))


async def _counted(count: int) -> bool:
    return len(_ours()) == count


async def test_idle_processes_end_after_a_timeout(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_module, "IDLE_SECONDS", 0.05)
    monkeypatch.setattr(sandbox_module, "SPARE_SECONDS", 0.05)
    assert await echo(sandbox) == "hi\n"
    await when(lambda: _counted(0))
    assert await echo(sandbox) == "hi\n"


async def test_closing_does_not_hang_after_a_job_was_cancelled_in_the_middle_of_its_answer(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = sql("CREATE TABLE t AS SELECT randomblob(900000)")
    task = asyncio.create_task(sandbox.run(job, Answer, PATIENCE))
    feed, received = asyncio.StreamReader.feed_data, 0

    def cancel_midway(reader: asyncio.StreamReader, data: bytes) -> None:
        nonlocal received
        feed(reader, data)
        received += len(data)
        if received > 300_000:  # by now, asyncio has paused the pipe until somebody reads
            task.cancel()

    monkeypatch.setattr(asyncio.StreamReader, "feed_data", cancel_midway)
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(PATIENCE):
        await sandbox.close()


async def test_an_idle_process_that_was_killed_is_replaced(sandbox: Sandbox) -> None:
    await echo(sandbox)
    (waiting,) = _ours()
    waiting.kill()
    await when(lambda: _counted(0))
    assert await echo(sandbox) == "hi\n"


async def test_jobs_over_the_limit_wait_for_a_slot(sandbox: Sandbox) -> None:
    running = [asyncio.create_task(placed(sandbox, "sleep 0.4; echo x", 5)) for _ in range(7)]
    most = 0
    while not all(task.done() for task in running):
        most = max(most, len(_ours()))
        await asyncio.sleep(0.02)
    assert [task.result() for task in running] == ["x\n"] * 7
    assert most <= 3 + 1  # one may be exiting


async def test_a_process_inherits_none_of_the_servers_environment(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PERDURE_MASTER_KEY", "11" * 32)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-ours")
    with (tmp_path / "open").open("w"):
        await echo(sandbox)
        (child,) = _ours()
        held = child.environ()
        assert not {
            name for name in held if name.startswith(("PERDURE", "OPENAI", "AWS", "DATABASE", "HOME"))
        }, held
        assert [opened.path for opened in child.open_files() if str(tmp_path) in opened.path] == []
        assert child.net_connections() == []
        assert child.cwd() == "/"


async def test_a_process_can_hold_a_full_workspace(sandbox: Sandbox) -> None:
    files = {f"f{number}": b"0123456789abcde\n" * 600_000 for number in range(10)}
    command = "for f in f?; do echo x >> $f; done; wc -c f? | tail -1"
    found = await sandbox.run(shell(command, 60, **files), ShellDone, 60)
    assert (found.result.exit_code, found.result.stdout.split()) == (0, ["96000020", "total"]), found.result
    assert len(found.differences.written) == 10


async def test_a_process_that_has_grown_is_not_reused(sandbox: Sandbox) -> None:
    await sandbox.run(sql("SELECT length(group_concat(hex(zeroblob(400000)))) FROM (VALUES (1))"), Answer, 5)
    (small,) = _ours()
    rows = ",".join(["(hex(zeroblob(499000)))"] * 45)
    image = (await sandbox.run(sql("CREATE TABLE t (a)"), Answer, 5)).image
    grown = await sandbox.run(sql(f"INSERT INTO t VALUES {rows}", image or b""), Answer, 5)
    assert len(grown.image or b"") > 40_000_000
    await asyncio.gather(*(sandbox.run(SchemaJob(grown.image or b""), list[Any], 5) for _ in range(2)))
    assert _ours() == [] or small not in _ours() or small.memory_info().rss < sandbox_child.USED_UP


async def test_jobs_in_the_background_leave_a_slot_to_turns_of_the_same_session() -> None:
    sandbox, whose = Sandbox(), ("org", "session")
    entered, leave = asyncio.Semaphore(0), asyncio.Event()

    async def hold() -> None:
        async with sandbox.slot(whose, 0, (3, 2), background=True):
            entered.release()
            await leave.wait()

    waiting = [asyncio.create_task(hold()) for _ in range(5)]
    async with asyncio.timeout(PATIENCE):
        await entered.acquire()
        async with sandbox.slot(whose, 0, (3, 2)):
            assert entered.locked()  # no second one has begun
        async with (
            sandbox.slot(("org", "another"), 0, (3, 2), background=True),
            sandbox.slot(("org", "a third"), 0, (3, 2)),
        ):
            pass
        leave.set()
        await asyncio.gather(*waiting)


async def test_a_session_or_organization_at_its_share_does_not_block_others(sandbox: Sandbox) -> None:
    wide = Sandbox()
    first = [asyncio.create_task(placed(wide, "sleep 60", 60, ("a", "s"))) for _ in range(SHARES[1] + 2)]
    try:
        async with asyncio.timeout(PATIENCE):
            for other in (("a", "t"), ("b", "u")):
                assert await placed(wide, "echo hi", 5, other) == "hi\n"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await placed(wide, "echo hi", 5, ("a", "s"))
    finally:
        for task in first:
            task.cancel()
        await asyncio.gather(*first, return_exceptions=True)
    async with asyncio.timeout(PATIENCE):
        assert await placed(wide, "echo hi", 5, ("a", "s")) == "hi\n"
    await wide.close()
    assert sum(SHARES) <= AT_ONCE


async def test_room_is_granted_in_order_and_a_cancelled_waiter_blocks_nobody() -> None:
    room, order = Room(100), asyncio.Queue[str]()
    leave = {name: asyncio.Event() for name in ("half", "most", "given up", "little", "more than all")}

    async def hold(name: str, size: int) -> None:
        async with room.hold(size):
            order.put_nowait(name)
            await leave[name].wait()

    sizes = {"half": 50, "most": 90, "given up": 90, "little": 10, "more than all": 1_000}
    tasks = {}
    for name, size in sizes.items():
        tasks[name] = asyncio.create_task(hold(name, size))
        await asyncio.sleep(0)
    assert await order.get() == "half"
    assert order.empty()  # there is room for the small one, but it came later
    tasks["given up"].cancel()
    leave["half"].set()
    async with asyncio.timeout(PATIENCE):
        assert [await order.get(), await order.get()] == ["most", "little"]
        tasks["most"].cancel()
        leave["little"].set()
        assert await order.get() == "more than all"
        leave["more than all"].set()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        async with room.hold(100):
            pass


async def test_no_command_loads_its_files_before_it_has_room(
    one: httpx.AsyncClient, sqlite_server: Server
) -> None:
    talk = await new_talk(one)
    for number in range(9):
        assert (
            await one.post(talk.path(f"/fs/f{number}"), json={"content": "x" * 9_900_000})
        ).status_code == 201
    process = psutil.Process(sqlite_server.pid)
    await works(talk, "bash", command="true")
    before, most = process.memory_info().rss, 0
    copies = [Talk(one, (await post(one, talk.path("/fork"), {}))["id"]) for _ in range(6)]
    working = [asyncio.create_task(works(copy, "bash", command="wc -c f0")) for copy in copies]
    while not all(task.done() for task in working):
        most = max(most, process.memory_info().rss - before)
        await asyncio.sleep(0.01)
    assert all("9900000" in task.result()["stdout"] for task in working)
    assert most < 450_000_000  # MB: 320 with room for two of them at once, 630 with room for all


async def test_the_model_gets_an_error_when_no_process_can_be_started(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as without:
        without.setattr("sys.executable", "/nowhere/python")
        with pytest.raises(ToolError, match="No process could be started"):
            await echo(sandbox)
    assert await echo(sandbox) == "hi\n"


async def test_the_child_process_finds_the_package_from_another_folder(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """For example with `PYTHONPATH=src`, or with a folder added to `sys.path` at run time."""
    (tmp_path / "only_here.py").write_text("from perdure.sandbox.child import main\nmain()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(".")
    monkeypatch.setattr(sandbox_module, "MODULE", "only_here")
    assert await echo(sandbox) == "hi\n"


async def test_a_pipe_of_a_full_workspace_gets_the_shells_own_error(sandbox: Sandbox) -> None:
    files = {f"f{number}": b"0123456789abcde\n" * 620_000 for number in range(10)}
    ran = (await sandbox.run(shell("cat f? | wc -c", 60, **files), ShellDone, 60)).result
    assert "resource limit exceeded" in (ran.problem or "")


# --- the child's code, in this process
# -----------------------------------------------------------------------------------


def frames(data: bytes) -> list[Frame]:
    found, at = [], 0
    while at < len(data):
        (length,) = HEADER.unpack_from(data, at)
        at += HEADER.size + length
        found.append(msgspec.msgpack.decode(data[at - length : at], type=Frame))
    return found


def test_jobs_are_answered_in_order_after_their_output() -> None:
    jobs = [shell("echo hi"), sql("SELECT 1"), SchemaJob(b"")]
    encoded = [msgspec.msgpack.encode(job) for job in jobs]
    sink = io.BytesIO()
    before = signal.getsignal(signal.SIGALRM)
    serve(io.BytesIO(b"".join(HEADER.pack(len(each)) + each for each in encoded)), sink)
    begun, shown, *rest = frames(sink.getvalue())
    assert (begun, shown) == (Started(), Output("stdout", "hi\n"))
    assert [type(answer) for answer in rest] == [Done, Started, Done, Started, Done]
    assert signal.getsignal(signal.SIGALRM) == before


@pytest.mark.parametrize(
    ("raised", "words", "retire"),
    [
        (ToolError("no"), "no", None),
        (MemoryError(), "more memory", True),
        (SystemError("a panic"), "It failed: SystemError.", True),
        (KeyboardInterrupt(), "It failed: KeyboardInterrupt.", True),
    ],
)
def test_every_failure_is_answered(
    monkeypatch: pytest.MonkeyPatch, raised: BaseException, words: str, retire: bool | None
) -> None:
    def fail(image: bytes) -> None:
        raise raised

    monkeypatch.setattr(sandbox_child, "describe", fail)
    answer = answer_to(SchemaJob(b""), lambda stream, text: None)
    assert isinstance(answer, Failed)
    assert words in answer.message
    assert retire is None or answer.retire is retire
