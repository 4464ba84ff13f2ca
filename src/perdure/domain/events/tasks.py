"""The data of events about tasks."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from perdure.domain.event_data import EventData
from perdure.domain.ids import TaskId
from perdure.domain.tasks import SessionTask, TaskArtifact, TaskMessage, TaskProgress

_TASK = Meta(description="The whole task, as it is now.")
_TASK_ID = Meta(description="The task.")
_MESSAGE = Meta(description="The message.")


class TaskCreatedData(EventData, frozen=True):
    """The session begins a task."""

    kind = "task.created"
    task: Annotated[SessionTask, _TASK]


class TaskUpdatedData(EventData, frozen=True):
    """A task changed. Exactly one of these events has a state in which it has ended (promise P12)."""

    kind = "task.updated"
    task: Annotated[SessionTask, _TASK]


class TaskMessageSentData(EventData, frozen=True):
    """The session sent a message to a task."""

    kind = "task.message.sent"
    task_id: Annotated[TaskId, _TASK_ID]
    message: Annotated[TaskMessage, _MESSAGE]


class TaskMessageReceivedData(EventData, frozen=True):
    """A message from a task arrived."""

    kind = "task.message.received"
    task_id: Annotated[TaskId, _TASK_ID]
    message: Annotated[TaskMessage, _MESSAGE]


class TaskReportedData(EventData, frozen=True, omit_defaults=True):
    """A sub-agent reports to the session that began it. The report is delivered there."""

    kind = "task.reported"
    task_id: Annotated[TaskId, _TASK_ID]
    message: Annotated[TaskMessage | None, Meta(description="What it says.")] = None
    progress: Annotated[TaskProgress | None, Meta(description="How far it is.")] = None
    artifacts: Annotated[tuple[TaskArtifact, ...], Meta(description="What it has made.")] = ()
