"""`stateless_todo_list`: a plan that the model rewrites as it works.

The list is stored only in the log, as the arguments of the calls.
"""

from __future__ import annotations

from perdure.capabilities.port import READ_ONLY, Capability, Tool, ToolContext, ToolOutcome, schema
from perdure.domain.messages import JsonObject

_STATES = ("pending", "in_progress", "completed")


async def _write_todos(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    todos = arguments["todos"]
    counts = {state: sum(1 for todo in todos if todo["status"] == state) for state in _STATES}
    answer: JsonObject = {"total": len(todos), **counts}
    if counts["in_progress"] > 1:
        answer["note"] = "More than one item is in progress: work on one at a time."
    return ToolOutcome(answer)


WRITE_TODOS = Tool(
    name="write_todos",
    display_name="To-do list",
    description=(
        "Write the whole to-do list, replacing the previous one. Use it for work of three or more steps: "
        "write the plan first, mark an item in_progress before you start it and completed as soon as it is "
        "done."
    ),
    parameters=schema(
        {
            "todos": {
                "type": "array",
                "maxItems": 100,
                "items": schema(
                    {
                        "content": {
                            "type": "string",
                            "minLength": 1,
                            "maxLength": 1000,
                            "description": "What to do.",
                        },
                        "status": {"type": "string", "enum": list(_STATES)},
                        "active_form": {
                            "type": "string",
                            "maxLength": 1000,
                            "description": "The text to show while the item is in progress.",
                        },
                    },
                    "content",
                    "status",
                ),
            }
        },
        "todos",
    ),
    run=_write_todos,
    hints=READ_ONLY,
)

STATELESS_TODO_LIST = Capability(
    id="stateless_todo_list",
    name="To-do list",
    description="Lets the agent keep a to-do list in the conversation while it works through a task.",
    category="planning",
    tools=lambda config: (WRITE_TODOS,),
    prompt=lambda config: (
        "For work of several steps, keep a to-do list with write_todos and update it as you go."
    ),
)
