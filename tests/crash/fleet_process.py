"""The `perdure` command with a clock that can jump, and with tools whose effects outlive the process.

This is a separate program; `Server.program` starts it. The clock jumps for the whole process, as the
machine's would: everything reads it through `time`. Durations are measured with another clock, which does not
jump on a machine either.
"""

from __future__ import annotations

import mmap
import struct
import sys
import time
from pathlib import Path

from tests.crash.effects import Tools

_OFFSET = struct.Struct("<q")
"""Nanoseconds by which the clock is ahead."""


def set_clock(file: Path, seconds: float) -> None:
    """Have the clock of the process that reads this file be ahead by so many seconds, or behind if negative.

    A process sees it at once.
    """
    if not file.exists():
        file.write_bytes(_OFFSET.pack(0))
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), _OFFSET.size) as memory:
        _OFFSET.pack_into(memory, 0, int(seconds * 1e9))


def _read_clock_from(file: Path) -> None:
    with file.open("rb") as opened:
        memory = mmap.mmap(opened.fileno(), _OFFSET.size, access=mmap.ACCESS_READ)
    real, real_ns = time.time, time.time_ns
    time.time = lambda: real() + _OFFSET.unpack_from(memory)[0] / 1e9
    time.time_ns = lambda: int(real_ns() + _OFFSET.unpack_from(memory)[0])


def _main() -> None:
    from perdure import wiring
    from perdure.cli.main import main

    clock, world = Path(sys.argv[1]), Path(sys.argv[2])
    del sys.argv[1:3]
    _read_clock_from(clock)
    real, tools = wiring.built_in, Tools(world, world, hangs=False)
    wiring.built_in = lambda services: (*real(services), tools.capability)
    main()


if __name__ == "__main__":
    _main()
