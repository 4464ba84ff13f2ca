"""An attempt to advance a session. It is counted before it starts if an earlier one may have died or failed.

So a session that kills its server, or fails before its turn can even be read, comes to an end: after
`Policy.max_recoveries` recoveries without progress it is sealed, without a look at its log.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno

from perdure.domain.errors import Fenced, PerdureError, StaleHead, Unavailable
from perdure.domain.ids import SessionId
from perdure.domain.turn_queries import begins_with_append
from perdure.engine.context import Engine
from perdure.engine.observed import observe_recovery
from perdure.engine.run import OpenedSession, Run, opened_by, read_session
from perdure.engine.seal import seal
from perdure.engine.suspects import Admission
from perdure.store.claims import claim, release
from perdure.store.queue import Begun
from perdure.store.sessions import SessionRow

_MACHINE = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENOBUFS}
)
"""Errors of the machine: out of descriptors or of space, or a broken disk."""


def is_interruption(error: BaseException) -> bool:
    """Whether the run was stopped by what is no fault of its session, and so does not count as a recovery."""
    if isinstance(error, OSError):
        return error.errno in _MACHINE
    if isinstance(error, Unavailable):
        return error.retryable
    return isinstance(error, asyncio.CancelledError) and is_cancelled()


def is_cancelled() -> bool:
    """Whether this task was asked to stop. Otherwise a `CancelledError` is a failure of what it awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def is_retryable(error: BaseException) -> bool:
    """Whether a later attempt may succeed, and the failure is no fault of the session."""
    return is_interruption(error) or (isinstance(error, PerdureError) and error.retryable)


class Attempt:
    """One attempt.

    Args:
        again: whether an earlier attempt may have died or failed.
        retried: whether the caller's own attempt before this one has failed.
        trouble: the kind of error that ended the attempt before, if it is known, for the seal.
        begun: the session as it may still be.
    """

    def __init__(
        self,
        engine: Engine,
        session_id: SessionId,
        *,
        again: bool,
        retried: bool,
        trouble: str | None,
        begun: Begun | None = None,
    ) -> None:
        self._engine = engine
        self._session_id = session_id
        self._again = again
        self._takes_over = again or retried
        """Whether to claim a session of which a step was begun. Otherwise its runner lives, as far as this
        attempt knows: the job is superfluous, and the sweep finds out if the runner has died."""
        self._trouble = trouble
        self._begun = None if again or retried else begun
        self._claimed: SessionRow | None = None
        self._admission: Admission | None = None

    @property
    def of_child(self) -> bool:
        """Whether it is known to be one of a sub-agent's session."""
        return self._claimed is not None and self._claimed.task_id is not None

    async def open(self) -> Run | None:
        """Open the session, or return None if it has nothing to do or is now sealed.

        The first append claims the session, if nothing of it is at work. If an earlier attempt may have died
        or has failed, the session is claimed here, which fences the previous runner. Otherwise whoever is at
        work on it goes on.

        Raises:
            Fenced: another runner has claimed the session.
        """
        while (found := await self._read()) is not None:
            if isinstance(found, SessionRow):
                if not await self._begin_again(found):
                    return None
                continue
            row = found.row
            if self._claimed is not None and row.epoch != self._claimed.epoch:
                raise Fenced
            if self._claimed is None and not begins_with_append(found.state):
                if not self._takes_over:
                    self._engine.conversations.put(self._session_id, found.conversation)
                    return None
                try:
                    row = await self._claim(row)
                except StaleHead:
                    self._engine.conversations.put(self._session_id, found.conversation)
                    continue  # read again: whoever appended in between relies on this runner to see it
            run = Run(self._engine, row, found.state, found.conversation, claimed=self._claimed is not None)
            run.admission = self._admission
            return run
        return None

    async def _read(self) -> OpenedSession | SessionRow | None:
        begun, self._begun = self._begun, None
        if begun is not None and (opened := opened_by(self._engine, begun)) is not None:
            return opened
        return await read_session(
            self._engine, self._session_id, again=self._again, counted=self._claimed is not None
        )

    async def _begin_again(self, row: SessionRow) -> bool:
        """Count this attempt, or wait for the permission to.

        Returns:
            False if the session is now sealed, or left to the attempt that was counted last.
        """
        if not self._takes_over and row.status == "active" and not row.resting:
            return False
        most = self._engine.policy.max_recoveries
        if 0 < row.recoveries < most and self._admission is None:
            self._admission = await self._engine.suspects.admit(row.recoveries, self._engine.clock)
            return True  # the wait may have been long: look at the row again
        with contextlib.suppress(StaleHead):
            row = await self._claim(row)
            if row.recoveries > most:
                await seal(self._engine, row, self._trouble)
                return False
        return True

    async def _claim(self, row: SessionRow) -> SessionRow:
        """Claim the session and count one more recovery. Raises StaleHead and Fenced."""
        excused = self._engine.suspects.take_excuse(row.id)
        try:
            self._claimed = await self._engine.database.write(lambda tx: claim(tx, row, counts=not excused))
        except BaseException as error:
            # An interrupted claim may have been counted although this is not known.
            if excused or is_interruption(error):
                self._engine.suspects.excuse(row.id)
            raise
        self._engine.claimed_epochs[row.id] = self._claimed.epoch
        observe_recovery(self._engine, self._claimed, failed=self._trouble is not None)
        return self._claimed

    async def close(self, run: Run | None, *, interrupted: bool) -> None:
        """Let go of the session.

        Args:
            run: the run that the attempt came to, if it did.
            interrupted: the attempt was stopped, or the database became unavailable: it does not count.
        """
        self._engine.claimed_epochs.pop(self._session_id, None)
        if self._admission is not None:
            self._admission.end()
        row = self._claimed if run is None else run.row
        if row is not None and interrupted and (run is None or run.claimed):
            try:
                await self._engine.database.write(lambda tx: release(tx, row))
            except (PerdureError, OSError, asyncio.CancelledError):
                if row.recoveries:
                    self._engine.suspects.excuse(row.id)
