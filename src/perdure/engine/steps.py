"""The steps of one tool call: `context.step` runs a part of a tool and records its result in the log."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import msgspec

from perdure.capabilities.guarding import Guard
from perdure.domain.calls import CallState, key_of
from perdure.domain.effects import Verified, effects_under, part_key
from perdure.domain.errors import OutcomeUnknown, ToolError
from perdure.domain.events import NewEvent, ToolStepData
from perdure.domain.messages import JsonValue, storable
from perdure.domain.nesting import MAX_NESTING, is_deep, may_be_deep
from perdure.domain.redaction import redact_event
from perdure.domain.spans import tool_context
from perdure.domain.steps import Started, Step, find_step
from perdure.domain.turn import Calling
from perdure.engine.guarded_results import checked_error, is_hidden
from perdure.engine.interrupted import INTERRUPTED, Interrupted, ask_until_late
from perdure.engine.run import Run
from perdure.engine.tool_output import json_of

MAX_STEPS = 100
"""The most steps of one call."""
MAX_RESULT = 100_000
"""Bytes of a step's result, as JSON."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.:/-]{0,99}")

Work = Callable[[], Awaitable[object]]
Verify = Callable[[], Awaitable[Verified]]


class Steps:
    """`context.step` of one attempt of a call.

    Args:
        guard: checks the results before they are recorded.

    Attributes:
        over: the attempt has ended, so that nothing may begin any more.
    """

    def __init__(self, run: Run, call: CallState, timeout: float, guard: Guard | None = None) -> None:
        self.over = False
        self._guard = guard
        self._limit: asyncio.Timeout | None = None
        self._end_of_limit: float | None = None
        self._stopped_at = 0.0
        self._waiting = 0
        self._run, self._call, self._timeout = run, call, timeout
        started = call.status if isinstance(call.status, Started) else None
        self._earlier = started.steps if started else ()
        self._replayable = started is not None and started.replayable
        self._used: set[str] = set()

    def limited(self, limit: asyncio.Timeout) -> None:
        """Take the attempt's time limit, which waiting for an old request does not count towards."""
        self._limit = limit

    async def __call__(
        self, name: str, work: Work, *, idempotent: bool = False, verify: Verify | None = None
    ) -> JsonValue:
        """Run a part of the tool, unless an earlier attempt of the call has done so: then return its result.

        Args:
            name: the step's name, unique within the call: up to 100 letters, digits, spaces, `_`, `.`, `:`,
                `/` or `-`.
            work: a coroutine function without arguments. Its result must be JSON of at most 100 KB, and is
                returned as decoded from JSON, whether it is new or recorded.
            idempotent: the step may run again after a crash in the middle of it.
            verify: finds out after a crash in the middle of the step whether it took effect.

        Raises:
            ValueError: the name is invalid, or was used before in this call.
            ToolError: the step reported an error, now or in an earlier attempt.
            Interrupted: nobody knows whether the step took effect.
        """
        self._check(name)
        step = find_step(self._earlier, name)
        if step is not None and step.ended and not step.redacted:
            if step.error is not None:
                raise ToolError(step.error)
            return step.result
        if step is not None and not (idempotent or self._replayable):
            value = await self._found(step, verify)
            if value is not None:
                return await self._end(name, value.value)
        await self._log(
            ToolStepData(
                self._call.id,
                self._call.name,
                name,
                "started",
                effect_key=part_key(self._key(), name),
                repeatable=idempotent or verify is not None,
            )
        )
        began = self._run.engine.clock.elapsed()
        try:
            with effects_under(part_key(self._key(), name)):
                result = await work()
        except OutcomeUnknown:  # the step is not known to have ended
            raise
        except ToolError as error:
            # Redact before truncating: half a secret would not be recognized.
            text = self._run.redactor.text(storable(error.message))
            text = (await checked_error(self._guard, self._call, text))[:MAX_RESULT]
            await self._log(self._ended(name, "failed", began, error=text))
            raise
        return await self._end(name, result, began)

    def _check(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"the step name {name[:100]!r} is invalid: it needs 1 to 100 letters, digits, spaces or "
                "_.:/-, and begins with a letter or a digit"
            )
        if name in self._used:
            raise ValueError(f"the step {name!r} was used before in this call: each step needs its own name")
        if len(self._used) == MAX_STEPS:
            raise ValueError(f"a call has at most {MAX_STEPS} steps; the step {name!r} is one more")
        if self._run.redactor.text(name) != name:
            raise ValueError("the name of a step contains a secret of the session: use another name")
        self._used.add(name)

    def _key(self) -> str:
        return key_of(self._run.row.id, self._call)

    async def _found(self, step: Step, verify: Verify | None) -> Verified | None:
        """What the tool says about a step whose result is missing; None if the step may run again."""
        if step.ended:
            raise Interrupted(
                f"{INTERRUPTED} Its step {step.name!r} is done, but its result, which has a secret, is lost."
            )
        if verify is None:
            raise Interrupted(f"{INTERRUPTED} Its step {step.name!r} had begun.")
        found = await self._ask(step, verify)
        if found.outcome == "unknown":
            raise Interrupted(f"{INTERRUPTED} Its step {step.name!r} had begun.")
        return found if found.outcome == "done" else None

    async def _ask(self, step: Step, verify: Verify) -> Verified:
        name = f"{self._call.name} ({step.name})"
        with self._unlimited():
            return await ask_until_late(self._run, name, verify, step.began_at, self._timeout)

    @contextmanager
    def _unlimited(self) -> Iterator[None]:
        """Stop the attempt's time limit, also if several steps wait at once."""
        limit, clock = self._limit, self._run.engine.clock
        if limit is not None and not self._waiting:
            self._end_of_limit, self._stopped_at = limit.when(), clock.elapsed()
            limit.reschedule(None)
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            if limit is not None and not self._waiting and self._end_of_limit is not None:
                limit.reschedule(self._end_of_limit + clock.elapsed() - self._stopped_at)

    async def _end(self, name: str, value: object, began: float | None = None) -> JsonValue:
        """Record a result, and return it as decoded from JSON."""
        text = json_of(value)
        problem = _problem_of(text)
        if problem is not None:
            error = f"The step {name!r} is done, but its result {problem}"
            await self._log(self._ended(name, "failed", began, error=error))
            raise ToolError(error)
        result: JsonValue = msgspec.json.decode(text)
        data = self._ended(name, "completed", began, result=result)
        state = self._run.phase(Calling)
        event = NewEvent(data, tool_context(state, self._call.id), self._run.engine.clock.now())
        if redact_event(event, self._run.redactor) is not event:
            data = msgspec.structs.replace(data, redacted=True)
        if await is_hidden(self._guard, self._call, result):
            data = msgspec.structs.replace(data, result=None, redacted=True)
        await self._log(data)
        return result

    def _ended(
        self,
        name: str,
        status: Literal["completed", "failed"],
        began: float | None,
        *,
        result: JsonValue = None,
        error: str | None = None,
    ) -> ToolStepData:
        elapsed = None if began is None else round((self._run.engine.clock.elapsed() - began) * 1000)
        return ToolStepData(
            self._call.id,
            self._call.name,
            name,
            status,
            result=result,
            error=error,
            duration_ms=elapsed,
        )

    async def _log(self, data: ToolStepData) -> None:
        """Append the event. A start is no progress: a step that kills its server must not start for ever.

        Nor is the end of a step that had ended before, and was made again because its result had a secret.
        """
        started, earlier = data.status == "started", find_step(self._earlier, data.name)
        progress = not started and (earlier is None or not earlier.ended)
        if (started and self.over) or not await self._run.log_at_once(self._call.id, data, progress=progress):
            raise ToolError(f"the call has ended: its step {data.name!r} cannot go on")


def _problem_of(text: str) -> str | None:
    """Why this JSON cannot be recorded; None if it can."""
    if len(text) > MAX_RESULT and len(text.encode()) > MAX_RESULT:
        return f"has more than {MAX_RESULT // 1000} KB: return less, or write it to a file."
    if may_be_deep(text) and _is_deep(text):
        return f"is nested more than {MAX_NESTING} levels deep: return a flatter value."
    return None


def _is_deep(text: str) -> bool:
    """Whether JSON is nested so deeply that the event with it could not be read everywhere."""
    try:
        return is_deep(msgspec.json.decode(text))
    except RecursionError:
        return True
