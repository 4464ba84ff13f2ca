"""The `perdure` command, killed with -9 at the n-th time that it touches the key files it rotates.

A program of its own: see `die_at`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.command import environment

SURVIVED, KILLED = 0, -signal.SIGKILL


async def die_at(step: int, *arguments: str) -> int:
    """Run the command until its n-th step with the key files, and no further; its exit status."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        str(step),
        *arguments,
        stdout=asyncio.subprocess.DEVNULL,
        env=environment(PYTHONPATH=str(Path(__file__).parents[2])),
    )
    return await asyncio.wait_for(process.wait(), 30)


def _main() -> None:
    from perdure.cli.main import main

    left, begun = int(sys.argv[1]), False
    del sys.argv[1]
    folder = sys.argv[sys.argv.index("--data") + 1]

    def step(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left, begun
        begun = (
            begun or event == "os.remove"
        )  # before it writes a key it clears the place; what comes earlier only looks
        if (
            begun
            and event in {"open", "os.rename", "os.remove"}
            and any(_is_key_file(each, folder) for each in arguments)
        ):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(step)
    main()


def _is_key_file(argument: Any, folder: str) -> bool:
    """Whether it is the path of a key file, or of the folder that is opened to be flushed."""
    return isinstance(argument, str | os.PathLike) and (
        str(argument) == folder or "master.key" in str(argument)
    )


if __name__ == "__main__":
    _main()
