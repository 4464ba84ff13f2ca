"""Places that run code, for tests: bubblewrap, the example's service, a stand-in for Docker."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from perdure.domain.code import CodeBackEnd, CodeJob, CodeLimits, CodeResult
from perdure.net.code_service import CodeService
from perdure.sandbox.code_places import Bubblewrap, Docker

ROOT = Path(__file__).parents[1]

needs_bubblewrap = pytest.mark.usefixtures("bubblewrap")

LIMITS = CodeLimits(memory_bytes=256 << 20, output_bytes=10_000, file_bytes=1 << 20, total_bytes=8 << 20)

STAND_IN = """\
#!{python}
# Docker's command without Docker: it records its arguments, and runs the program of `-c` under bubblewrap.
import json, os, pathlib, sys
pathlib.Path({record!r}).open("a").write(json.dumps(sys.argv[1:]) + "\\n")
if sys.argv[1] == "run":
    os.execv({bwrap!r}, [
        "bwrap", "--unshare-all", "--die-with-parent", "--clearenv", "--ro-bind", "/usr", "/usr",
        "--ro-bind", "/lib", "/lib", "--ro-bind-try", "/lib64", "/lib64",
        "--ro-bind", {prefix!r}, {prefix!r}, "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",
        "--tmpfs", "/workspace", "{python}", *sys.argv[-3:],
    ])
"""


def bubblewrap(limits: CodeLimits = LIMITS) -> Bubblewrap:
    return Bubblewrap(limits)


def docker(folder: Path, monkeypatch: pytest.MonkeyPatch, limits: CodeLimits = LIMITS) -> tuple[Docker, Path]:
    """Docker's place with a stand-in for its command, and the file with the arguments that it gets."""
    record, command = folder / "arguments.jsonl", folder / "docker"
    command.write_text(
        STAND_IN.format(
            python=Path(sys.executable).resolve(),
            prefix=sys.base_prefix,
            record=str(record),
            bwrap=shutil.which("bwrap"),
        )
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return Docker(limits, "python:test"), record


@asynccontextmanager
async def service(limits: CodeLimits = LIMITS) -> AsyncIterator[CodeService]:
    """The example's service, as a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(ROOT / "examples" / "code_service.py"), "0",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, env={"TOKEN": "sesame"},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        yield CodeService(limits, line.split()[-1], "sesame")
    finally:
        process.kill()
        await process.wait()


async def run(
    place: CodeBackEnd,
    code: str,
    files: dict[str, bytes] | None = None,
    seconds: int = 10,
    key: str = "key",
    shown: list[tuple[str, str]] | None = None,
) -> CodeResult:
    """Run a program and return its result; `shown` gets its live output."""
    live = [] if shown is None else shown
    job = CodeJob(code, files or {}, (), seconds, key)
    return await place.run(job, lambda stream, text: live.append((stream, text)))


def descendants(pid: int, name: str = "") -> set[int]:
    """The processes below a process; only those of this name, and below them."""
    parents: dict[int, list[tuple[int, str]]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                head, _, tail = (folder / "stat").read_text().rpartition(")")
                parents.setdefault(int(tail.split()[1]), []).append((int(folder.name), head.split("(", 1)[1]))
    found: set[int] = set()
    waiting = [child for child, called in parents.get(pid, ()) if called == name or not name]
    while waiting:
        each = waiting.pop()
        found.add(each)
        waiting += [child for child, _ in parents.get(each, ())]
    return found


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
