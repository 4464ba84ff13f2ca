"""The `perdure` command, with a fault: turns whose log contains `PILL` fail while the file `FAULT` exists.

This is a separate program; `Server.program` starts it, with the file as its first argument.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

PILL = "indigestible"


def main() -> None:
    from perdure.cli.main import main as command
    from perdure.engine import attempt

    fault, real = Path(sys.argv.pop(1)), attempt.read_session

    async def read_session(*args: Any, **how: Any) -> Any:
        found = await real(*args, **how)
        if isinstance(found, attempt.OpenedSession) and PILL in repr(found.state) and fault.exists():
            raise RuntimeError("it cannot be read")
        return found

    attempt.read_session = read_session
    command()


if __name__ == "__main__":
    main()
