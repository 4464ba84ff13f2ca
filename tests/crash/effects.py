"""`perdure serve` with tools whose effects are lines in files, so that they outlive every process.

This is a separate program, started by `EffectsServer`. In its first process, a call hangs at the moment that
its argument `hang` names. After a restart, no call hangs.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.server import Server

LATE = 3.0
"""Seconds after which a request of the tool `asked` cannot arrive any more."""


class EffectsServer(Server):
    """The server. Each file in `world` is named after a key, and has a line for each effect with it."""

    def __init__(self, data: Path, **more: Any) -> None:
        super().__init__(data, **more)
        self.world, self.marks = data.parent / "world", data.parent / "marks"
        self.world.mkdir()
        self.marks.mkdir()
        self.program = (__file__, "hangs", str(self.world), str(self.marks))

    async def restart(self, number: int = 9) -> None:
        self.program = (__file__, "runs", str(self.world), str(self.marks))
        await super().restart(number)

    def hanging(self) -> set[str]:
        """The ids of the calls that hang."""
        return {mark.name for mark in self.marks.iterdir()}

    def effects(self) -> dict[str, list[str]]:
        """The effects by key."""
        return {found.name: found.read_text().split() for found in self.world.iterdir()}


class Tools:
    """The tools of one process."""

    def __init__(self, world: Path, marks: Path, *, hangs: bool) -> None:
        from perdure.capabilities import UNKNOWN, Capability, Tool, ToolHints, Verified, schema

        self._world, self._marks, self._hangs = world, marks, hangs
        words = {name: {"type": "string"} for name in ("hang", "how")}
        patience = 600.0 if hangs else LATE

        async def clueless(context: Any, arguments: Any) -> Any:
            return UNKNOWN

        async def guessing(context: Any, arguments: Any) -> Any:
            return Verified("Done")  # type: ignore[arg-type]

        def tool(name: str, run: Any, **more: Any) -> Tool:
            return Tool(name, "Has an effect.", schema(words), run, **more)

        self.capability = Capability(
            "effects",
            "Effects",
            "For tests.",
            "test",
            tools=lambda config: (
                tool("charge", self._charge),
                tool("asked", self._charge, verify=self._look, timeout=patience),
                tool("failing", self._charge, verify=_fail),
                tool("hanging", self._charge, verify=_wait_forever),
                tool("clueless", self._charge, verify=clueless),
                tool("repeatable", self._charge, hints=ToolHints(readonly=False, idempotent=True)),
                tool("guessing", self._charge, verify=guessing),
                tool("order", self._order, timeout=600.0),
                tool("resumable", self._order, timeout=600.0, resumable=True),
            ),
        )

    async def _hang(self, moment: str, context: Any, arguments: Any) -> None:
        if self._hangs and arguments.get("hang") == moment:
            (self._marks / context.tool_call_id).touch()
            await asyncio.Event().wait()

    def _effect(self, key: str, name: str) -> str:
        with (self._world / key).open("a") as lines:
            lines.write(f"{name}\n")
        return f"{name} {key}"

    async def _charge(self, context: Any, arguments: Any) -> Any:
        from perdure.capabilities import ToolOutcome

        await self._hang("before", context, arguments)
        said = self._effect(context.effect_key, "charge")
        await self._hang("after", context, arguments)
        return ToolOutcome(said)

    async def _look(self, context: Any, arguments: Any) -> Any:
        return self._found(context.effect_key)

    def _found(self, key: str) -> Any:
        from perdure.capabilities import NOT_DONE, done

        return done(f"found {key}") if (self._world / key).exists() else NOT_DONE

    async def _order(self, context: Any, arguments: Any) -> Any:
        from perdure.capabilities import ToolOutcome

        def effect(name: str) -> Callable[[], Awaitable[str]]:
            async def work() -> str:
                said = self._effect(context.effect(name), name)
                await self._hang(name, context, arguments)
                return said

            return work

        async def found() -> Any:
            return self._found(context.effect("charge"))

        how = arguments.get("how")
        more: Any = {"idempotent": True} if how == "idempotent" else {"verify": found} if how else {}
        await self._hang("begin", context, arguments)
        said = [await context.step("reserve", effect("reserve"))]
        await self._hang("between", context, arguments)
        said.append(await context.step("charge", effect("charge"), **more))
        said.append(await context.step("mail", effect("mail")))
        return ToolOutcome(said)


async def _fail(context: Any, arguments: Any) -> Any:
    raise ConnectionError("the service is down")


async def _wait_forever(context: Any, arguments: Any) -> Any:
    await asyncio.Event().wait()


def _main() -> None:
    from perdure import wiring
    from perdure.cli.main import main
    from perdure.engine import interrupted

    mode, world, marks = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    del sys.argv[1:4]
    real, tools = wiring.built_in, Tools(world, marks, hangs=mode == "hangs")
    wiring.built_in = lambda services: (*real(services), tools.capability)
    interrupted.VERIFY_TIMEOUT = 0.5
    main()


if __name__ == "__main__":
    _main()
