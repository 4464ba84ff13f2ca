"""One suite for every place that runs code: bubblewrap, Docker's command, and a service at a URL."""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from perdure.domain.code import CodeBackEnd
from perdure.domain.errors import InvalidInput, ToolError
from perdure.net.code_service import CodeService
from perdure.sandbox.code_places import Bubblewrap, Docker
from perdure.settings import load
from perdure.wiring import open_parts
from tests import code_places
from tests.bubblewrap import check_place, without
from tests.code_places import LIMITS, needs_bubblewrap, run
from tests.sites import Site


@pytest.fixture(params=["bubblewrap", "docker", "service"])
async def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[CodeBackEnd]:
    if request.param != "service":
        request.getfixturevalue("bubblewrap")
    match request.param:
        case "bubblewrap":
            yield code_places.bubblewrap()
        case "docker":
            yield code_places.docker(tmp_path, monkeypatch)[0]
        case _:
            async with code_places.service() as service:
                yield service


async def test_a_program_sees_its_files_and_what_it_changes_comes_back(place: CodeBackEnd) -> None:
    files = {"/in/numbers.txt": b"1 2 3", "/same": b"\x00\xff", "/gone": b"", "/größe 1": b"x"}
    code = (
        "import os, sys, pathlib\n"
        "print(sum(map(int, open('in/numbers.txt').read().split())))\n"
        "print(sorted(os.listdir('.')))\n"
        "pathlib.Path('out/deep').mkdir(parents=True)\n"
        "open('out/deep/result.bin', 'wb').write(bytes(range(256)))\n"
        "open('größe 1', 'w').write('y')\n"
        "os.remove('gone')\n"
        "print('careful', file=sys.stderr)\n"
    )
    shown: list[tuple[str, str]] = []
    result = await run(place, code, files, shown=shown)
    assert (result.exit_code, result.stderr) == (0, "careful\n")
    assert result.stdout == "6\n['gone', 'größe 1', 'in', 'same']\n"
    assert result.written == {"/out/deep/result.bin": bytes(range(256)), "/größe 1": b"y"}
    assert result.removed == ("/gone",)
    assert "".join(text for stream, text in shown if stream == "stdout") == result.stdout


async def test_an_exception_is_readable_and_fails_the_program(place: CodeBackEnd) -> None:
    result = await run(place, "def half(x):\n    return x / 0\nhalf(3)")
    assert result.exit_code == 1
    assert result.stderr.startswith("Traceback")
    assert result.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert (await run(place, "import sys; sys.exit(7)", key="another")).exit_code == 7


async def test_a_program_is_stopped_at_its_deadline_and_its_files_are_kept(place: CodeBackEnd) -> None:
    result = await run(
        place, "open('half', 'w').write('done')\nprint('on', flush=True)\nwhile True: pass", seconds=1
    )
    assert (result.stopped, result.exit_code, result.stdout) == ("time", 137, "on\n")
    assert result.written == {"/half": b"done"}


async def test_output_over_the_limit_is_truncated(place: CodeBackEnd) -> None:
    result = await run(place, "print('é' * 100_000)")
    assert result.truncated
    assert result.exit_code == 0
    assert 0 < len(result.stdout.encode()) <= LIMITS.output_bytes + 4


@needs_bubblewrap
async def test_docker_gets_every_option_of_the_isolation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in shows what the command is given; that Docker honours it is not shown here."""
    place, record = code_places.docker(tmp_path, monkeypatch)
    await run(place, "print(1)")
    arguments = json.loads(record.read_text().splitlines()[0])
    line = " ".join(arguments[: arguments.index("-c")])
    for option in (
        "run --rm --interactive", "--network none", "--read-only", "--cap-drop ALL", "--pids-limit 36",
        "--security-opt no-new-privileges", "--user 65534:65534", "--cpus 1", "--memory ", "--memory-swap ",
        "--tmpfs /workspace:rw,nosuid,nodev,size=", "--entrypoint python3 python:test",
    ):  # fmt: skip
        assert option in line, option
    assert "--volume" not in line
    assert "--env" not in line


async def test_a_place_that_cannot_be_made_fails_the_call_and_the_log_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # below tmp_path, only this user could run it
        await _fail_to_start(Path(folder), monkeypatch, caplog)


async def _fail_to_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder.chmod(0o755)
    for name in ("bwrap", "docker"):
        (folder / name).write_text("#!/bin/sh\nprintf 'no\\033[31m permission' >&2\nexit 1\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    for place in (Bubblewrap(LIMITS), Docker(LIMITS, "python:test")):
        with pytest.raises(ToolError, match="does not work"):
            await run(place, "print(1)")
        assert f"{place.name} did not run the code: no [31m permission" in caplog.text


@needs_bubblewrap
async def test_a_container_whose_program_hangs_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, record = code_places.docker(tmp_path, monkeypatch)
    with pytest.raises(ToolError, match="ended the place"):
        await run(place, "import os, signal; os.kill(os.getppid(), signal.SIGKILL)")
    started, removed = (json.loads(line) for line in record.read_text().splitlines())
    assert removed == ["rm", "--force", started[started.index("--name") + 1]]


async def test_a_service_runs_a_request_that_is_sent_again_only_once() -> None:
    async with code_places.service() as service:
        code = "import time; print(time.time_ns())"
        first, again = [await run(service, code, key="one") for _ in range(2)]
        other = await run(service, code, key="two")
    assert first.stdout == again.stdout != other.stdout


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (web.Response(status=500), "status 500"),
        (web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}), "status 302"),
        (web.Response(text="[" * 100_000), "invalid answer"),
        (web.Response(text='{"exit_code": "none"}'), "invalid answer"),
        (web.Response(text='{"exit_code": 0, "files": [{"path": "/a", "content": "!"}]}'), "invalid answer"),
        (web.Response(body=b"\xff\xfe"), "invalid answer"),
        (web.Response(text='{"exit_code": 0, "stdout": "\\ud800"}'), "invalid answer"),
        (web.Response(text='{"exit_code": 1e400}'), "invalid answer"),
        (web.Response(body=b"x" * (13 << 20)), "over"),
    ],
)
async def test_a_service_that_answers_nonsense_fails_the_call(
    site: Site, answer: web.Response, says: str
) -> None:
    site.answers["/"] = answer
    with pytest.raises(ToolError, match=says) as failed:
        await run(CodeService(LIMITS, site.url("/")), "print(1)")
    assert "may or may not have run" in failed.value.message


async def test_a_service_that_is_not_there_fails_the_call_without_its_address() -> None:
    with pytest.raises(ToolError, match=r"cannot be reached\. The code was not run\.") as failed:
        await run(CodeService(LIMITS, "http://user:hidden@127.0.0.1:1/"), "print(1)")
    assert "hidden" not in failed.value.message


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"code_interpreter": "podman"}, "must be off, bubblewrap, docker or a URL, not 'podman'"),
        ({"code_interpreter": "http://"}, "the URL in PERDURE_CODE_INTERPRETER needs a host"),
        (
            {"code_interpreter": "bubblewrap", "code_network": "bridge"},
            "needs PERDURE_CODE_INTERPRETER=docker",
        ),
        ({"code_interpreter": "docker"}, "program docker is not installed"),
    ],
)
async def test_a_setting_that_cannot_work_is_refused_before_anything_is_created(
    settings: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    data = tmp_path / "data"
    with pytest.raises(InvalidInput, match=says):
        async with open_parts(load({}, data=str(data), **settings)):
            pass
    assert not data.exists()


def test_tests_of_isolation_are_skipped_only_where_it_cannot_work() -> None:
    forbidden = (
        "bwrap: No permissions to create new namespace, likely because the kernel does not allow it",
        "bwrap: Creating new namespace failed: nesting depth or /proc/sys/user/max_*_namespaces exceeded",
        "bwrap: Can't mount proc on /newroot/proc: Operation not permitted",
        "bwrap: setting up uid map: Permission denied",
    )
    for said in forbidden:
        with pytest.raises(pytest.skip.Exception, match="does not let bubblewrap"):
            check_place(said)
    for said in ("bwrap: Unknown option --unshare-all", "bwrap cannot be started: Exec format error"):
        with pytest.raises(pytest.fail.Exception, match="does not work"):
            check_place(said)
    check_place(None)
    with pytest.raises(pytest.fail.Exception):
        without("not installed", "true")
    with pytest.raises(pytest.skip.Exception):
        without("not installed", None)
