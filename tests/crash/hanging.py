"""`perdure serve` with tools that hang, so that the server can be killed at that moment.

This is a separate program, started by `HangingServer`. A call whose id begins with `hang` hangs just before
its tool runs, or just after, before its result is logged.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any, Literal

from tests.server import Server

Moment = Literal["before", "after"]


class HangingServer(Server):
    """A server whose first process lets tools hang at this moment. After a restart it is an ordinary one."""

    def __init__(self, data: Path, moment: Moment, **more: Any) -> None:
        super().__init__(data, **more)
        self.marks = data.parent / "marks"
        self.marks.mkdir(exist_ok=True)
        self.program = (__file__, moment, str(self.marks))

    async def restart(self, number: int = 9) -> None:
        self.program = ()
        await super().restart(number)

    def hanging(self) -> set[str]:
        """The ids of the calls that hang."""
        return {mark.name for mark in self.marks.iterdir()}


def _main() -> None:
    from perdure.cli.main import main
    from perdure.engine import tool_calls

    moment, marks = sys.argv[1], Path(sys.argv[2])
    del sys.argv[1:3]
    real = tool_calls._attempt

    async def attempt(run: Any, agent: Any, bound: Any, state: Any, call: Any, *more: Any) -> Any:
        hangs = call.id.startswith("hang")
        outcome = None if hangs and moment == "before" else await real(run, agent, bound, state, call, *more)
        if hangs:
            (marks / call.id).touch()
            await asyncio.Event().wait()
        return outcome

    tool_calls._attempt = attempt  # type: ignore[assignment]
    main()


if __name__ == "__main__":
    _main()
