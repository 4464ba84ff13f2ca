"""The `perdure` command, with a fault: a session whose log contains `PILL` kills the server that reads it.

This is a separate program; `Server.program` starts it.
"""

from __future__ import annotations

import os
import signal
from typing import Any

PILL = "poison pill"


def main() -> None:
    from perdure.cli.main import main as command
    from perdure.engine import attempt

    real = attempt.read_session

    async def read_session(*args: Any, **how: Any) -> Any:
        found = await real(*args, **how)
        if isinstance(found, attempt.OpenedSession) and PILL in repr(found.state):
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    attempt.read_session = read_session
    command()


if __name__ == "__main__":
    main()
