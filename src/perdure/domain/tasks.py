"""Tasks: work that a session has begun and does not do in its own turn, by a sub-agent or a tool.

A task is a fold of `task.created` and `task.updated` in the log of the session that began it. Its row is a
projection of them. It ends exactly once (promise P12).
"""

from __future__ import annotations

import json
from typing import Annotated, Literal

from msgspec import Meta, Struct

from perdure.domain.data_flow import External
from perdure.domain.errors import Conflict
from perdure.domain.ids import SessionId, TaskId
from perdure.domain.messages import JsonObject, JsonValue
from perdure.domain.times import CreatedAt, Micros, Timestamp, UpdatedAt

MAX_DEPTH = 3
"""How deep a tree of sessions may be: the sub-agents of sub-agents of sub-agents of a session."""
MAX_OPEN = 25
"""The most tasks of a session that have not ended."""
TIME_LIMIT, MAX_TIME_LIMIT = 3600.0, 7 * 24 * 3600.0
"""The seconds that a task may take: without a limit of its own, and the longest limit."""
MAX_ANSWER = 64 * 1024
"""Characters of a sub-agent's answer that its parent receives; its session has all of it."""
MAX_SUMMARY = 2_000
"""Characters of a task's summary."""
MAX_INSTRUCTIONS = 100_000
"""Characters of the first message to a sub-agent, and of each further one."""
MAX_NAME = 100
"""Characters of a task's name."""
MAX_ARTIFACTS = 100
"""The most artifacts of a task."""
KEPT = 30 * 24 * 3600 * 1_000_000
"""How long an ended task is listed, in microseconds. The log keeps its events."""


def check_open(unfinished: int, limit: int = MAX_OPEN) -> None:
    """Check that a session may begin another task. Raises Conflict."""
    if unfinished >= limit:
        raise Conflict(
            f"{unfinished} tasks of this session have not ended, and it may have {limit}: wait for some of "
            "them, or cancel them",
            code="too_many_tasks",
        )


TaskState = Literal["queued", "running", "awaiting_input", "succeeded", "failed", "canceled"]
ENDED: frozenset[TaskState] = frozenset(("succeeded", "failed", "canceled"))
"""The states in which a task has ended; no other follows."""
Canceller = Literal["agent", "turn", "user", "time_limit"]
WakePolicy = Literal["silent", "on_terminal", "on_activity"]
TaskKind = Literal["subagent", "background_tool"]
TaskMode = Literal["foreground", "background"]
"""Whether the call that began a task waits for its end."""

SOURCE = "subagent"
"""The `source` of a sub-agent's session."""
ROOT, PARENT_TASK = "root_session_id", "task_id"
"""Keys under which a wake-up message says, in its metadata, what it is about."""


class TaskError(Struct, frozen=True):
    """Why a task failed or was canceled."""

    kind: Annotated[
        str,
        Meta(
            description="The error code: that of the failed turn, or `canceled`, `time_limit`, `deleted` ...",
            examples=["provider_unavailable"],
        ),
    ]
    message: Annotated[str, Meta(description="What went wrong, for people.")]


class TaskProgress(Struct, frozen=True, omit_defaults=True):
    """How far a task is, as it has reported itself."""

    current: Annotated[int | None, Meta(description="What is done.")] = None
    total: Annotated[int | None, Meta(description="What there is to do.")] = None
    unit: Annotated[str | None, Meta(description="What is counted.", examples=["files"])] = None
    label: Annotated[str | None, Meta(description="What is being done, for people.")] = None


class TaskArtifact(Struct, frozen=True, omit_defaults=True):
    """Something that a task has made."""

    name: Annotated[str, Meta(description="Its name.")]
    type: Annotated[str, Meta(description="Its kind, as `file` or `link`.")]
    path: Annotated[
        str | None, Meta(description="The path of the file in the files of the task's session.")
    ] = None
    url: Annotated[str | None, Meta(description="Where it is.")] = None


class TaskInputRequest(Struct, frozen=True, omit_defaults=True):
    """What a task waits for that only a person can give. The inbox has the item to decide on."""

    id: Annotated[
        str, Meta(description="The tool call that waits, in the task's session; or the budget without money.")
    ]
    prompt: Annotated[str, Meta(description="What is asked for.")]
    expected: Annotated[JsonObject, Meta(description="What an answer looks like.")] = {}


class TaskLinks(Struct, frozen=True, omit_defaults=True):
    """What belongs to a task."""

    child_session_id: Annotated[
        SessionId | None, Meta(description="The sub-agent's session, which can be read like any other.")
    ] = None
    remote_task_id: Annotated[str | None, Meta(description="The task's id at another server.")] = None
    resource_ids: Annotated[tuple[str, ...], Meta(description="Other resources of the task.")] = ()


class SessionTask(Struct, frozen=True, omit_defaults=True):
    """A task of a session."""

    id: Annotated[TaskId, Meta(description="The task's id.")]
    session_id: Annotated[SessionId, Meta(description="The session that began the task.")]
    kind: Annotated[
        TaskKind,
        Meta(description="`subagent`: a session works on it; `background_tool`: a tool runs."),
    ]
    display_name: Annotated[str, Meta(description="The task's name.", examples=["research"])]
    state: Annotated[
        TaskState,
        Meta(
            description=(
                "`queued`, `running`, `awaiting_input` (somebody must decide or answer; it goes on then), or "
                "how it ended: `succeeded`, `failed`, `canceled`."
            ),
            examples=["running"],
        ),
    ]
    created_at: CreatedAt
    updated_at: UpdatedAt
    wake_policy: Annotated[
        WakePolicy,
        Meta(
            description=(
                "When the session receives a message about the task: `silent` never, `on_terminal` at its "
                "end, `on_activity` also when it waits for somebody or sends a message."
            )
        ),
    ] = "on_terminal"
    mode: Annotated[TaskMode, Meta(description="`foreground`: the call that began it waits for its end.")] = (
        "background"
    )
    spec: Annotated[JsonObject, Meta(description="What the task was begun with.")] = {}
    links: Annotated[TaskLinks, Meta(description="What belongs to it.")] = TaskLinks()
    attempt: Annotated[int, Meta(description="How often a worker has begun it.")] = 0
    state_detail: Annotated[str | None, Meta(description="More about the state, for people.")] = None
    progress: Annotated[TaskProgress | None, Meta(description="How far it is.")] = None
    input_request: Annotated[
        TaskInputRequest | None, Meta(description="With `awaiting_input`: what it waits for.")
    ] = None
    artifacts: Annotated[tuple[TaskArtifact, ...], Meta(description="What it has made.")] = ()
    summary: Annotated[str | None, Meta(description=f"Its answer: the first {MAX_SUMMARY} characters.")] = (
        None
    )
    output: Annotated[JsonValue, Meta(description="Its typed answer, if a schema was set for it.")] = None
    error: Annotated[TaskError | None, Meta(description="Why it failed or was canceled.")] = None
    result_path: Annotated[
        str | None, Meta(description="The file with the whole result, if there is one.")
    ] = None
    external: Annotated[
        tuple[External, ...],
        Meta(description="Where text from outside in its context, or its result, came from."),
    ] = ()
    withheld: Annotated[
        bool, Meta(description="Whether a guardrail has changed its answer: it is not what the task said.")
    ] = False
    worker_id: Annotated[str | None, Meta(description="Who runs it, if a worker runs it by itself.")] = None
    started_at: Annotated[Timestamp | None, Meta(description="When the work began.")] = None
    heartbeat_at: Annotated[Timestamp | None, Meta(description="When something was last heard of it.")] = None
    deadline: Annotated[Timestamp | None, Meta(description="The end of its time limit.")] = None
    cancel_requested_at: Annotated[
        Timestamp | None, Meta(description="When it was asked to stop. It has stopped once it is `canceled`.")
    ] = None
    cancel_requested_by: Annotated[
        Canceller | None,
        Meta(
            description=(
                "Who asked it to stop: the `agent` that began it, the end of its `turn` or session, a "
                "`user`, or its `time_limit`. No message tells the session of what its `turn` has stopped."
            )
        ),
    ] = None
    finished_at: Annotated[Timestamp | None, Meta(description="When it ended.")] = None

    @property
    def ended(self) -> bool:
        """Whether the task has ended, once and for all."""
        return self.state in ENDED

    def is_late(self, deadline: Micros | None, stopped_at: Micros) -> bool:
        """Whether its time limit stopped it, and nobody who had asked before.

        Who asked for it decides: a server that was down may stop a task long after it was asked to.
        """
        if self.cancel_requested_by is not None:
            return self.cancel_requested_by == "time_limit"
        return deadline is not None and stopped_at >= deadline


Direction = Literal["inbound", "outbound"]


class TaskText(Struct, frozen=True, tag_field="type", tag="text"):
    """A text in a task's message."""

    text: Annotated[str, Meta(description="The text.", examples=["Two of the numbers are wrong."])]


class TaskData(Struct, frozen=True, tag_field="type", tag="data"):
    """A value in a task's message."""

    data: Annotated[JsonObject, Meta(description="The value.", examples=[{"wrong": 2}])]


TaskPart = TaskText | TaskData


class TaskMessage(Struct, frozen=True, omit_defaults=True):
    """A message to a task, or from it."""

    id: Annotated[
        str, Meta(description="The message's id.", examples=["message_0192f0c1b2a37b5c8d4e5f60718293a4"])
    ]
    task_id: Annotated[TaskId, Meta(description="The task.")]
    direction: Annotated[Direction, Meta(description="`inbound`: to the task; `outbound`: from the task.")]
    content: Annotated[tuple[TaskPart, ...], Meta(description="What it says.")]
    created_at: CreatedAt
    in_reply_to: Annotated[str | None, Meta(description="The message that it answers.")] = None


class SessionTaskDetail(Struct, frozen=True):
    """A task with its messages."""

    task: Annotated[SessionTask, Meta(description="The task.")]
    messages: Annotated[
        tuple[TaskMessage, ...], Meta(description="The messages to and from it, oldest first.")
    ]


class PostTaskMessage(Struct, frozen=True, omit_defaults=True):
    """A message to a task: a text, or parts."""

    text: Annotated[
        Annotated[str, Meta(max_length=MAX_INSTRUCTIONS)] | None, Meta(description="The text.")
    ] = None
    content: Annotated[
        Annotated[tuple[TaskPart, ...], Meta(max_length=100)] | None,
        Meta(description="The parts, instead of `text`."),
    ] = None
    in_reply_to: Annotated[
        Annotated[str, Meta(max_length=100)] | None, Meta(description="The message that it answers.")
    ] = None


def text_of_message(message: TaskMessage) -> str:
    """What a message says, as text."""
    parts = (
        part.text if isinstance(part, TaskText) else json.dumps(part.data, ensure_ascii=False)
        for part in message.content
    )
    return "\n".join(parts)
