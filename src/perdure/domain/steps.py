"""A tool call that the server has started, and its steps.

Each step's start and end are in the log, so that none is repeated after a crash.

    started -> completed (a result) | failed (an error of the tool)

A step that was started and has no end was open when its runner died: nobody knows whether it took effect.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from perdure.domain.events import ToolStepData, ToolVerifiedData
from perdure.domain.messages import JsonValue
from perdure.domain.times import Micros


class Step(Struct, frozen=True):
    """A step, as the log has it.

    Attributes:
        began_at: when it was last started.
        repeatable: whether it may be started again while it is open: it is idempotent, or can be verified.
        ended: whether its result or its error is known.
        redacted: its result had a secret, so the log does not have it as it was.
    """

    name: str
    began_at: Micros
    repeatable: bool
    ended: bool = False
    result: JsonValue = None
    error: str | None = None
    redacted: bool = False


class Started(Struct, frozen=True):
    """The status of a call that the server has started.

    Attributes:
        replayable: it may run again after a crash (promise P5).
        resumable: all its effects are in its steps.
        began_at: when it last began to run.
    """

    replayable: bool
    resumable: bool = False
    began_at: Micros = 0
    steps: tuple[Step, ...] = ()

    @property
    def can_continue(self) -> bool:
        """Whether it may run again because of its steps: none has to be guessed or repeated blindly."""
        return (self.resumable or bool(self.steps)) and all(
            step.repeatable or (step.ended and not step.redacted) for step in self.steps
        )


def started_after(status: Started, data: ToolStepData | ToolVerifiedData, ts: Micros) -> Started:
    """The status after a step, or after a look at the outcome: a call that is not done runs once more."""
    if isinstance(data, ToolStepData):
        return replace(status, steps=_with_step(status.steps, data, ts))
    return replace(status, began_at=ts) if data.outcome == "not_done" else status


def _with_step(steps: tuple[Step, ...], data: ToolStepData, ts: Micros) -> tuple[Step, ...]:
    before = find_step(steps, data.name)
    if data.status == "started":
        step = Step(data.name, ts, data.repeatable)
    elif before is None:
        return steps
    else:
        step = replace(before, ended=True, result=data.result, error=data.error, redacted=data.redacted)
    if before is None:
        return (*steps, step)
    return tuple(step if each is before else each for each in steps)


def find_step(steps: tuple[Step, ...], name: str) -> Step | None:
    """The step with this name."""
    return next((step for step in steps if step.name == name), None)
