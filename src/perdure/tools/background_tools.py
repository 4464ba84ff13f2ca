"""`background_tools`: lets the model run tools beside the turn, as tasks.

It is a capability of its own and not a part of `subagents`: it changes the definitions of other tools, which
an agent that only delegates should not pay for, and an agent without sub-agents can use it.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from perdure.app.context import Services
from perdure.app.task_answers import WAIT
from perdure.capabilities.behaviour import BackgroundRules, Behaviour
from perdure.capabilities.port import Capability, schema
from perdure.domain.tasks import MAX_TIME_LIMIT
from perdure.tools.subagents import task_tools

MAX_TOOLS = 100
"""Tools that a configuration can name."""


def background_tools(services: Services) -> Capability:
    """Create the capability, with its tools bound to the services."""
    tools = task_tools(services, "list_tasks", "get_task", "cancel_task", WAIT)
    return Capability(
        id="background_tools",
        name="Tools in the background",
        description=(
            "Lets the agent run slow tools in the background and go on meanwhile: their results come as "
            "messages."
        ),
        category="agents",
        features=("tasks",),
        config_schema=schema(
            {
                "tools": {
                    "type": "array",
                    "items": {"type": "string", "minLength": 1, "maxLength": 64},
                    "maxItems": MAX_TOOLS,
                    "default": [],
                    "description": (
                        "The names of further tools that may run in the background, such as those of MCP "
                        "servers. Others say so themselves."
                    ),
                },
                "time_limit": {
                    "type": "number",
                    "minimum": 1,
                    "maximum": MAX_TIME_LIMIT,
                    "description": (
                        "The seconds that a tool may take in the background, if its own timeout is shorter."
                    ),
                },
            }
        ),
        tools=lambda config: tools,
        behave=_behave,
    )


def _behave(config: Any, behaviour: Behaviour) -> Behaviour:
    return replace(behaviour, background=msgspec.convert(config or {}, BackgroundRules))
