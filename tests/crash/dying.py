"""The `perdure` command, killed with -9 at its n-th access to the key files that it rotates.

This is a separate program, started by `die_at`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

from tests.command import environment
from tests.fork_server import ROOT, fork_server

SURVIVED, KILLED = 0, -signal.SIGKILL


async def die_at(step: int, *arguments: str, **more: str) -> int:
    """Run the command, and kill it at its n-th access to the key files; returns its exit status.

    Args:
        more: environment variables.
    """
    process = await fork_server().start(
        (str(step), *arguments), environment(PYTHONPATH=ROOT, **more), program=__file__, stderr=2
    )
    return await asyncio.wait_for(process.wait(), 30)


def _main() -> None:
    from perdure.cli.main import main

    left, begun = int(sys.argv[1]), False
    del sys.argv[1]
    folder = sys.argv[sys.argv.index("--data") + 1]

    def step(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left, begun
        # The command removes a leftover file before it writes a key. What it does earlier only reads.
        begun = begun or event == "os.remove"
        if (
            begun
            and event in {"open", "os.rename", "os.remove"}
            and any(_is_key_file(argument, folder) for argument in arguments)
        ):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(step)
    main()


def _is_key_file(argument: Any, folder: str) -> bool:
    """Whether it is the path of a key file, or of their folder, which is opened to flush it."""
    return isinstance(argument, str | os.PathLike) and (
        str(argument) == folder or "master.key" in str(argument)
    )


if __name__ == "__main__":
    _main()
