"""The child process of `pool.py`: runs jobs one after another, under the operating system's resource limits.

It reads msgpack frames from standard input and writes them to standard output, each prefixed by its length.
A crash here does not affect the server, and the process exits as soon as the server is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import select
import signal
import struct
import sys
import threading
from collections.abc import Callable
from typing import IO, Any

import msgspec
from msgspec import Struct

from perdure.domain.errors import ToolError
from perdure.sandbox.arguments import ArgumentsJob, check_arguments
from perdure.sandbox.confinement import confine
from perdure.sandbox.frames import Apart
from perdure.sandbox.media import InspectJob, ScaleJob, inspect, scale
from perdure.sandbox.shell import ShellJob, run_shell
from perdure.sandbox.sql import SchemaJob, SqlJob, describe, run_sql

MODULE = "perdure.sandbox.child"
HEADER = struct.Struct("!Q")

MEMORY = 3 << 29
"""Bytes of address space of a process: room for a full workspace before and after the command, and as much
again in transit. A pipe of a whole workspace takes 1 GB before the shell refuses it with its own error."""

TEMPORARY = 256 << 20
"""Bytes of the largest file that the process may write: SQLite uses files for large sorts."""

USED_UP = 300 << 20
"""Bytes of resident memory above which the process is not reused."""

LONGEST = 200
"""Seconds after which SIGALRM ends a job that nothing else has stopped."""

Job = ShellJob | SqlJob | SchemaJob | ArgumentsJob | InspectJob | ScaleJob


class Started(Struct, frozen=True, tag="started"):
    """The job has arrived. From now on it may have had effects, so it must not be sent again."""


class Output(Struct, frozen=True, tag="output"):
    """A piece of output, while the job runs."""

    stream: str
    text: str


class Content(Struct, frozen=True, tag="content"):
    """A long content of the result that follows. After this frame come its bytes, as they are."""

    name: str
    size: int


class Done(Struct, frozen=True, tag="done"):
    """A job's encoded result. `retire`: this process must not be reused."""

    value: bytes
    retire: bool


class Failed(Struct, frozen=True, tag="failed"):
    """Why a job failed, as a message for the model."""

    message: str
    retire: bool


Frame = Started | Output | Content | Done | Failed
Give = Callable[[str, bytes], None]

OUT_OF_MEMORY = "it needs more memory than is allowed"


def work(job: Job, show: Callable[[str, str], None]) -> Any:
    """Run a job. Raises ToolError."""
    match job:
        case ShellJob():
            return asyncio.run(run_shell(job, show))
        case SqlJob():
            return run_sql(job.image, job.sql, msgspec.json.decode(job.parameters), reading=job.reading)
        case SchemaJob():
            return describe(job.image)
        case ArgumentsJob():
            return check_arguments(job)
        case InspectJob():
            return inspect(job)
        case ScaleJob():
            return scale(job)


def answer_to(
    job: Job, show: Callable[[str, str], None], statm: int = -1, give: Give | None = None
) -> Done | Failed:
    """Run a job and return its last frame.

    Args:
        give: receives the result's long contents.
    """
    try:
        result = work(job, show)
        contents: dict[str, bytes] = {}
        if isinstance(result, Apart) and give is not None:
            result, contents = result.apart()
        value = msgspec.msgpack.encode(result)
        if give is not None:
            for name, content in contents.items():
                give(name, content)
        return Done(value, _resident_bytes(statm) > USED_UP)
    except ToolError as error:
        return Failed(error.message, _resident_bytes(statm) > USED_UP)
    except MemoryError:
        return Failed(f"It was stopped: {OUT_OF_MEMORY}.", retire=True)
    except BaseException as error:  # noqa: BLE001 (a panic in a Rust library is not an Exception)
        return Failed(f"It failed: {type(error).__name__}.", retire=True)


def serve(source: IO[bytes], sink: IO[bytes], statm: int = -1) -> None:
    """Run jobs until the input ends."""

    def send(answer: Frame) -> None:
        frame = msgspec.msgpack.encode(answer)
        sink.write(HEADER.pack(len(frame)))
        sink.write(frame)
        sink.flush()

    def give(name: str, content: bytes) -> None:
        send(Content(name, len(content)))
        sink.write(content)

    jobs = msgspec.msgpack.Decoder(Job)
    while header := source.read(HEADER.size):
        (length,) = HEADER.unpack(header)
        job = jobs.decode(source.read(length))
        send(Started())
        signal.alarm(LONGEST)
        answer = answer_to(job, lambda stream, text: send(Output(stream, text)), statm, give)
        signal.alarm(0)
        send(answer)


def limit() -> None:
    """Set the resource limits, as far as the operating system supports them."""
    for kind, value in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_FSIZE, TEMPORARY),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):
            hard = resource.getrlimit(kind)[1]
            bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (bound, bound))


def _resident_bytes(statm: int) -> int:
    """Bytes of resident memory of this process.

    Args:
        statm: the open /proc/self/statm, which cannot be opened later; -1 where there is none.

    `ru_maxrss` is only the fallback: it is a peak, and it starts with that of the server that forked us.
    """
    try:
        return int(os.pread(statm, 200, 0).split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _exit_when_orphaned() -> None:
    """Exit as soon as the server closes its end of standard input, even in the middle of a job."""
    poll = select.poll()
    poll.register(0, 0)  # waits for a hang-up only, which is always reported
    poll.poll()
    os._exit(0)


def main() -> None:
    """Run the child process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit()
    statm = -1
    with contextlib.suppress(OSError):
        statm = os.open("/proc/self/statm", os.O_RDONLY)
    confine()
    threading.Thread(target=_exit_when_orphaned, daemon=True).start()
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin.buffer, sys.stdout.buffer, statm)


if __name__ == "__main__":
    main()
