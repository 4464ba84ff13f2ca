"""Trees of sessions: a session, the sub-agents that it has begun, and theirs."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.domain.ids import AgentId, SessionId, TaskId
from perdure.domain.messages import Usage
from perdure.domain.sessions import Status
from perdure.domain.tasks import TaskError, TaskProgress, TaskState
from perdure.domain.times import CreatedAt, Timestamp

MAX_NODES = 1_000
"""The most sessions of a tree that are returned at once."""
MAX_TEXT = 300
"""Characters of a session's answer, or of its error, in a tree."""


class SessionNode(Struct, frozen=True, omit_defaults=True):
    """A session in a tree. It has a task if another session has begun it as a sub-agent."""

    session_id: Annotated[SessionId, Meta(description="The session.")]
    depth: Annotated[
        int, Meta(description="How many sessions are above it: 0 at the top of the tree.", examples=[0])
    ]
    status: Annotated[Status, Meta(description="The session's status.", examples=["idle"])]
    created_at: CreatedAt
    parent_session_id: Annotated[SessionId | None, Meta(description="The session that has begun it.")] = None
    task_id: Annotated[
        TaskId | None, Meta(description="The task of the parent session that it works on.")
    ] = None
    name: Annotated[
        str | None, Meta(description="The task's name, or the session's title.", examples=["research"])
    ] = None
    agent_id: Annotated[AgentId | None, Meta(description="Its agent.")] = None
    state: Annotated[
        TaskState | None,
        Meta(description="The state of the task. A task is not known any more 30 days after its end."),
    ] = None
    usage: Annotated[Usage | None, Meta(description="The usage of this session's own model calls.")] = None
    answer: Annotated[
        str | None, Meta(description=f"Its last answer: the first {MAX_TEXT} characters at most.")
    ] = None
    error: Annotated[TaskError | None, Meta(description="Why the task failed or was canceled.")] = None
    waits_for: Annotated[
        str | None, Meta(description="What somebody must decide or answer before it goes on.")
    ] = None
    progress: Annotated[TaskProgress | None, Meta(description="How far it says it is.")] = None
    started_at: Annotated[Timestamp | None, Meta(description="When the work began.")] = None
    finished_at: Annotated[Timestamp | None, Meta(description="When the task ended.")] = None


class SessionTree(Struct, frozen=True, omit_defaults=True):
    """The sessions below a session."""

    root_session_id: Annotated[
        SessionId, Meta(description="The session at the top of the whole tree, which may be another one.")
    ]
    nodes: Annotated[
        tuple[SessionNode, ...],
        Meta(description="The session, then those below it: each before its sub-agents."),
    ]
    truncated: Annotated[
        bool, Meta(description="Whether there are more sessions than are returned.", examples=[False])
    ]
    usage: Annotated[Usage | None, Meta(description="The usage of all sessions that are returned.")] = None
