"""`subagents`: lets the agent begin other agents, follow them, and stop them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from msgspec import to_builtins

from perdure.app.children import Spawn, spawn
from perdure.app.context import Services
from perdure.app.session_ends import stop_task
from perdure.app.task_answers import SPAWN, WAIT
from perdure.app.task_lists import describe_task, describe_tasks
from perdure.app.task_messages import message_task, report_to_parent
from perdure.app.task_waits import wait_for
from perdure.capabilities.port import (
    READ_ONLY,
    REPEATABLE,
    Capability,
    Later,
    Tool,
    ToolContext,
    ToolOutcome,
    schema,
)
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import TaskId, check_id
from perdure.domain.messages import JsonObject, storable
from perdure.domain.sessions import has_control
from perdure.domain.subagents import SUBAGENTS, Subagents, subagents_of
from perdure.domain.tasks import MAX_INSTRUCTIONS, MAX_NAME, MAX_OPEN, MAX_SUMMARY
from perdure.tools.subagent_settings import CONFIG, choices, describe_agents

SLACK = 60.0
"""Seconds that a call waits beyond its task's time limit, so that it receives the end."""
MAX_WAIT = 3600.0
"""The most seconds that `wait_tasks` waits."""
Run = Callable[[Services, ToolContext, JsonObject], Awaitable[ToolOutcome | Later]]

_CHOICES = frozenset(("mode", "files", "wake_policy", "time_limit", "agent", "blueprint"))
_TASK = {"type": "string", "maxLength": 60, "description": "The task's id."}


def subagents(services: Services) -> Capability:
    """Create the capability, with its tools bound to the services."""
    others = tuple(make(services) for make in _TOOLS)
    return Capability(
        id=SUBAGENTS,
        name="Sub-agents",
        description="Lets the agent begin other agents, each in a session of its own, and work with them.",
        category="agents",
        features=("subagents", "tasks"),
        config_schema=CONFIG,
        tools=lambda config: (_spawn_tool(services, subagents_of(config)), *others),
        discover=partial(describe_agents, services),
        reads_database=True,
    )


def task_tools(services: Services, *names: str) -> tuple[Tool, ...]:
    """These tools, for other capabilities whose calls begin tasks."""
    return tuple(tool for make in _TOOLS if (tool := make(services)).name in names)


async def _spawn(
    services: Services, config: Subagents, context: ToolContext, arguments: JsonObject
) -> ToolOutcome | Later:
    limit = min(float(arguments.get("time_limit") or config.usual_time), config.longest)
    instructions = _not_blank("instructions", _clean(context, arguments["instructions"]))
    what = Spawn(
        _not_blank("name", _line(context, arguments["name"])),
        instructions,
        arguments.get("mode") or "foreground",
        limit,
        arguments.get("wake_policy") or "on_terminal",
        arguments.get("files") or "shared",
        arguments.get("agent"),
        arguments.get("blueprint"),
        context.redactor.value(arguments.get("output_schema")),
        # Each event of the task has this; the child's session has all of it.
        {**_chosen(arguments), "instructions": instructions[:MAX_SUMMARY]},
        config,
    )
    later: Later | None = None
    if what.mode == "foreground":
        until = context.now() + round((limit + SLACK) * 1_000_000)
        later = Later("child", until, f"The sub-agent {what.name!r} works on it.")
    row = await spawn(services, context, what, later)
    if later is not None:
        return later
    return ToolOutcome({"task_id": row.id, "state": row.state, "session_id": row.child_session_id})


def _begins_at_once(arguments: JsonObject) -> bool:
    """Whether a sub-agent begins without a check of a schema, which may take a while."""
    return arguments.get("output_schema") is None and arguments.get("blueprint") is None


def _clean(context: ToolContext, value: Any) -> Any:
    """What a model says to others: without the session's secrets, and as every database can store it."""
    if isinstance(value, str):
        return context.redactor.text(storable(value))
    if isinstance(value, dict):
        return {name: _clean(context, each) for name, each in value.items()}
    return [_clean(context, each) for each in value] if isinstance(value, list) else value


def _not_blank(name: str, text: str) -> str:
    """Check a text that a model gets as a message, or people as a name."""
    if not text.strip():
        raise InvalidInput(f"`{name}` must not be blank")
    return text


def _line(context: ToolContext, text: str) -> str:
    """A text that lists show in a line: without control characters."""
    return "".join(" " if has_control(each) else each for each in _clean(context, text)).strip()


def _chosen(arguments: JsonObject) -> JsonObject:
    """The arguments that are no text of the model."""
    return {name: value for name, value in arguments.items() if name in _CHOICES}


async def _list(services: Services, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    return ToolOutcome({"tasks": to_builtins(await describe_tasks(services, context))})


async def _get(services: Services, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    task_id = check_id(arguments["task_id"], "task", "task_id")
    return ToolOutcome(to_builtins(await describe_task(services, context, task_id)))


async def _message(services: Services, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    task_id = check_id(arguments["task_id"], "task", "task_id")
    await message_task(
        services, context, task_id, _not_blank("message", _clean(context, arguments["message"]))
    )
    return ToolOutcome({"task_id": task_id, "sent": True})


async def _cancel(services: Services, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    task_id = check_id(arguments["task_id"], "task", "task_id")
    task = await stop_task(
        services,
        context.org_id,
        context.session_id,
        task_id,
        "agent",
        _line(context, arguments.get("reason") or "") or None,
    )
    return ToolOutcome({"task_id": task.id, "state": task.state})


async def _wait(services: Services, context: ToolContext, arguments: JsonObject) -> ToolOutcome | Later:
    ids: tuple[TaskId, ...] = tuple(check_id(each, "task", "tasks") for each in arguments.get("tasks") or ())
    seconds = float(arguments.get("timeout") or MAX_WAIT)
    until = context.now() + round(seconds * 1_000_000)
    tasks = await wait_for(services, context, ids, arguments.get("until") or "all", until)
    if tasks is None:
        return Later("child", until, "It waits for tasks.")
    return ToolOutcome(to_builtins(tasks))


async def _report(services: Services, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    await report_to_parent(services, context, _clean(context, arguments))
    return ToolOutcome({"reported": True})


def _spawn_tool(services: Services, config: Subagents) -> Tool:
    return Tool(
        name=SPAWN,
        display_name="Begin a sub-agent",
        description=(
            "Begin another agent, which works on one task in a session of its own and does not see this "
            "conversation: tell it everything that it needs. In the foreground, you receive its answer. In "
            "the background, you go on at once, and its answer comes as a message; calls in one answer run "
            f"side by side. At most {config.max_open} tasks may be open, and {config.max_depth} levels of "
            "agents."
        ),
        parameters=schema(
            {
                "name": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": MAX_NAME,
                    "description": "A short name of the task, for people.",
                },
                "instructions": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": MAX_INSTRUCTIONS,
                    "description": "The sub-agent's first message: what to do, and all that it has to know.",
                },
                "mode": {"enum": ["foreground", "background"], "default": "foreground"},
                "files": {
                    "enum": ["shared", "fork", "none"],
                    "default": "shared",
                    "description": "Whether it works on your files, on a copy of them, or on its own.",
                },
                "wake_policy": {
                    "enum": ["silent", "on_terminal", "on_activity"],
                    "default": "on_terminal",
                    "description": "In the background: which messages about it you receive.",
                },
                "output_schema": {
                    "type": "object",
                    "description": "A JSON Schema that its answer has to match.",
                },
                "time_limit": {
                    "type": "number",
                    "minimum": 1,
                    "maximum": config.longest,
                    "description": f"Seconds after which it is stopped; {config.usual_time:g} if left out.",
                },
                **choices(config),
            },
            "name",
            "instructions",
        ),
        run=partial(_spawn, services, config),
        hints=REPEATABLE,
        starts_with=_begins_at_once,
    )


def _tool(name: str, label: str, description: str, parameters: JsonObject, run: Run) -> Callable[..., Tool]:
    hints = READ_ONLY if name in ("list_tasks", "get_task", WAIT) else REPEATABLE

    def make(services: Services) -> Tool:
        return Tool(
            name=name,
            display_name=label,
            description=description,
            parameters=parameters,
            run=partial(run, services),
            hints=hints,
            spill=False,
        )

    return make


_TOOLS = (
    _tool("list_tasks", "List tasks", "List your tasks, with their states.", schema({}), _list),
    _tool(
        "get_task",
        "Look at a task",
        "Look at a task: its state and answer.",
        schema({"task_id": _TASK}, "task_id"),
        _get,
    ),
    _tool(
        "message_task",
        "Message a task",
        "Send a message to a sub-agent that works. It reads it before its next step.",
        schema(
            {
                "task_id": _TASK,
                "message": {"type": "string", "minLength": 1, "maxLength": MAX_INSTRUCTIONS},
            },
            "task_id",
            "message",
        ),
        _message,
    ),
    _tool(
        "cancel_task",
        "Cancel a task",
        "Stop a task for good, and everything below it.",
        schema({"task_id": _TASK, "reason": {"type": "string", "maxLength": 500}}, "task_id"),
        _cancel,
    ),
    _tool(
        WAIT,
        "Wait for tasks",
        "Wait until tasks have ended, and receive their answers.",
        schema(
            {
                "tasks": {
                    "type": "array",
                    "items": {"type": "string", "maxLength": 60},
                    "maxItems": MAX_OPEN,
                    "description": "Their ids; all open tasks if left out.",
                },
                "until": {"enum": ["all", "any"], "default": "all"},
                "timeout": {
                    "type": "number",
                    "minimum": 1,
                    "maximum": MAX_WAIT,
                    "description": "The most seconds to wait.",
                },
            }
        ),
        _wait,
    ),
    _tool(
        "report_to_parent",
        "Report",
        "Only in a sub-agent: send a message, your progress or what you have made to who began you.",
        schema(
            {
                "message": {"type": "string", "minLength": 1, "maxLength": MAX_INSTRUCTIONS},
                "progress": schema(
                    {
                        "current": {"type": "integer", "minimum": 0},
                        "total": {"type": "integer", "minimum": 0},
                        "unit": {"type": "string", "maxLength": 100},
                        "label": {"type": "string", "maxLength": 500},
                    }
                ),
                "artifacts": {
                    "type": "array",
                    "maxItems": 20,
                    "items": schema(
                        {
                            "name": {"type": "string", "minLength": 1, "maxLength": 200},
                            "type": {"type": "string", "maxLength": 100},
                            "path": {"type": "string", "maxLength": 1000},
                            "url": {"type": "string", "maxLength": 2000},
                        },
                        "name",
                        "type",
                    ),
                },
            }
        ),
        _report,
    ),
)
