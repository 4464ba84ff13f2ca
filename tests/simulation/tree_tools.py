"""The tools of sub-agents, bound to whatever process runs them."""

from __future__ import annotations

from typing import Any, cast

from msgspec.structs import replace

from perdure.app.context import Services
from perdure.capabilities.port import Capability, Tool, ToolContext
from perdure.domain.messages import JsonObject
from perdure.tools.subagents import subagents
from tests.simulation.tools import HANDS


class _Here:
    """A service of the process that the current task runs in."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(getattr(HANDS.get().app, self._name), attribute)


def _now() -> int:
    return HANDS.get().app.now()


def _new_id(prefix: Any) -> str:
    return HANDS.get().app.new_id(prefix)


def subagents_in_process() -> Capability:
    """The capability `subagents`. Its tools take `the first` for the id of the session's first task."""
    here: Any = {name: _Here(name) for name in ("database", "queue", "bus", "vault", "turns")}
    services = Services(
        now=_now,
        new_id=cast("Any", _new_id),
        **here,
    )
    capability = subagents(services)
    return replace(capability, tools=lambda config: tuple(map(_with_first, capability.tools(config))))


def _with_first(tool: Tool) -> Tool:
    async def run(context: ToolContext, arguments: JsonObject) -> Any:
        if arguments.get("task_id") == "the first":
            found = await HANDS.get().app.database.read(
                lambda tx: tx.one(
                    "SELECT id FROM tasks WHERE session_id = ? ORDER BY created_at, id", context.session_id
                )
            )
            arguments = {**arguments, "task_id": "task_" + "0" * 32 if found is None else found[0]}
        await HANDS.get().point("tool.before")
        outcome = await tool.run(context, arguments)
        await HANDS.get().point("tool.after")
        return outcome

    return replace(tool, run=run)
