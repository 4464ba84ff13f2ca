"""The `perdure` command, killed with -9 in the middle of what a session does with its tasks.

Its first argument is the place: behind a commit, and before what follows it.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

PLACES = {
    "spawned": ("perdure.tools.subagents", "spawn"),
    "sent": ("perdure.app.task_messages", "_send"),
    "reported": ("perdure.tools.subagents", "report_to_parent"),
    "settled": ("perdure.app.task_news", "_settled"),
    "wished": ("perdure.app.session_ends", "_down"),
}
"""The function behind whose commit the process dies, by the name of the place."""


def _main() -> None:
    import importlib

    from perdure.cli.main import main

    module, name = PLACES[sys.argv.pop(1)]
    home = importlib.import_module(module)
    work = getattr(home, name)

    async def die(*arguments: Any, **named: Any) -> Any:
        if name != "_down":
            await work(*arguments, **named)
        elif not arguments[1]:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(home, name, die)
    main()


if __name__ == "__main__":
    _main()
