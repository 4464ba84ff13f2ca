"""The other end of `sandbox.py`: a process that does one job after the other, under limits of the system.

Frames of msgpack come in on standard input and go out on standard output, each after its length. Whatever
happens here, the server outlives it; and this process outlives the server by no more than an instant.
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
from pathlib import Path
from typing import IO, Any

import msgspec
from msgspec import Struct

from perdure.domain.errors import ToolError
from perdure.sandbox.shell import ShellJob, run_shell
from perdure.sandbox.sql import SchemaJob, SqlJob, describe, run_sql

MODULE = "perdure.sandbox.child"
HEADER = struct.Struct("!Q")

MEMORY = 3 << 29
"""Bytes of addresses that a process may have: a full workspace, once as it was and once as it is, and as much
again on its way. A
pipe of all of it, which the shell refuses in words of its own, takes 1 GB before it does."""

TEMPORARY = 256 << 20
"""Bytes of a file that it may write: what SQLite sorts and has no room for in memory."""

USED_UP = 300 << 20
"""Bytes of memory with which it is not used again."""

LONGEST = 200
"""Seconds after which the system ends a job that nobody else ended."""

Job = ShellJob | SqlJob | SchemaJob


class Begun(Struct, frozen=True, tag="begun"):
    """The job has arrived: from here on it may have done something."""


class Shown(Struct, frozen=True, tag="shown"):
    """A piece of output, while the job runs."""

    stream: str
    text: str


class Gave(Struct, frozen=True, tag="gave"):
    """What a job came to, encoded. `retire`: this process is not to be used again."""

    value: bytes
    retire: bool


class Refused(Struct, frozen=True, tag="refused"):
    """Why a job came to nothing, in words for the model."""

    message: str
    retire: bool


Frame = Begun | Shown | Gave | Refused

OUT_OF_MEMORY = "it needs more memory than it may have"


def work(job: Job, show: Callable[[str, str], None]) -> Any:
    """Do a job. Raises ToolError."""
    match job:
        case ShellJob():
            return asyncio.run(run_shell(job, show))
        case SqlJob():
            return run_sql(job.image, job.sql, msgspec.json.decode(job.parameters), reading=job.reading)
        case SchemaJob():
            return describe(job.image)


def answer_to(job: Job, show: Callable[[str, str], None]) -> Gave | Refused:
    """The last frame of a job."""
    try:
        value = msgspec.msgpack.encode(work(job, show))
        return Gave(value, _held() > USED_UP)
    except ToolError as refused:
        return Refused(refused.message, _held() > USED_UP)
    except MemoryError:
        return Refused(f"It was stopped: {OUT_OF_MEMORY}.", retire=True)
    except BaseException as error:  # noqa: BLE001 (a panic of the libraries is none of Python's usual exceptions)
        return Refused(f"It failed: {type(error).__name__}.", retire=True)


def serve(source: IO[bytes], sink: IO[bytes]) -> None:
    """Take jobs until there are no more."""

    def send(answer: Frame) -> None:
        frame = msgspec.msgpack.encode(answer)
        sink.write(HEADER.pack(len(frame)))
        sink.write(frame)
        sink.flush()

    jobs = msgspec.msgpack.Decoder(Job)
    while header := source.read(HEADER.size):
        (length,) = HEADER.unpack(header)
        job = jobs.decode(source.read(length))
        send(Begun())
        signal.alarm(LONGEST)
        answer = answer_to(job, lambda stream, text: send(Shown(stream, text)))
        signal.alarm(0)
        send(answer)


def confine() -> None:
    """Take the limits on; whatever the system does not know stays as it is."""
    for limit, value in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_FSIZE, TEMPORARY),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):
            hard = resource.getrlimit(limit)[1]
            bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(limit, (bound, bound))


def _held() -> int:
    """Bytes of memory that this process holds.

    Its peak, which is known everywhere, begins with that of the server that made it.
    """
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _leave_with_the_server() -> None:
    """End as soon as the other end of standard input is closed, also in the middle of a job."""
    poll = select.poll()
    poll.register(0, 0)  # no more than the hanging up, which is always told
    poll.poll()
    os._exit(0)


def main() -> None:
    """The process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    confine()
    threading.Thread(target=_leave_with_the_server, daemon=True).start()
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
