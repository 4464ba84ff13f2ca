"""`perdure serve` whose runner hangs at its n-th append, so that the server can be killed there.

This is a separate program, started by `AppendingServer`.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any, Literal

from tests.server import Server
from tests.talk import when

Moment = Literal["before", "after"]


class AppendingServer(Server):
    """A server whose first process hangs before or after its n-th append. Later ones are ordinary."""

    def __init__(self, data: Path, moment: Moment, number: int, **more: Any) -> None:
        super().__init__(data, **more)
        self._mark = data.parent / "hangs"
        self.program = (__file__, moment, str(number), str(self._mark))

    async def restart(self, number: int = 9) -> None:
        self.program = ()
        await super().restart(number)

    async def until_it_hangs(self) -> None:
        async def hangs() -> bool:
            return self._mark.exists()

        await when(hangs)


def _main() -> None:
    from perdure.cli.main import main
    from perdure.engine.run import Run

    moment, number, mark = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    del sys.argv[1:4]
    real, made = Run._append, 0

    async def append(run: Run, *given: Any, **how: Any) -> None:
        nonlocal made
        made += 1
        hangs = made == number
        if not (hangs and moment == "before"):
            await real(run, *given, **how)
        if hangs:
            mark.touch()
            await asyncio.Event().wait()

    Run._append = append  # type: ignore[method-assign]
    main()


if __name__ == "__main__":
    _main()
