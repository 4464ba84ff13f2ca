"""`perdure serve` whose tools stop for ever in the middle, to be killed there.

A program of its own: see `HangingServer`.

A call whose id begins with `hang` stops just before its tool runs, or once it has run and before anybody is
told.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any, Literal

from tests.server import PERDURE, Server

Moment = Literal["before", "after"]


class HangingServer(Server):
    """A server whose first process stops tools at this moment.

    Once it is started again it is an ordinary one.
    """

    def __init__(self, data: Path, moment: Moment, **more: Any) -> None:
        super().__init__(data, **more)
        self.marks = data.parent / "marks"
        self.marks.mkdir(exist_ok=True)
        self.program = (__file__, moment, str(self.marks))

    async def restart(self, number: int = 9) -> None:
        self.program = PERDURE
        await super().restart(number)

    def hanging(self) -> set[str]:
        """The ids of the calls that have stopped."""
        return {mark.name for mark in self.marks.iterdir()}


def _main() -> None:
    from perdure.cli.main import main
    from perdure.engine import tool_calls as act

    moment, marks = sys.argv[1], Path(sys.argv[2])
    del sys.argv[1:3]
    real = act._attempt

    async def attempt(run: Any, assembly: Any, bound: Any, state: Any, call: Any) -> Any:
        hangs = call.id.startswith("hang")
        outcome = None if hangs and moment == "before" else await real(run, assembly, bound, state, call)
        if hangs:
            (marks / call.id).touch()
            await asyncio.Event().wait()
        return outcome

    act._attempt = attempt  # type: ignore[assignment]
    main()


if __name__ == "__main__":
    _main()
