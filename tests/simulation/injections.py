"""The events that can be injected at a point: a crash, a stall, a message, a cancel ..."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from perdure.app.input_requests import resume_signed_in
from perdure.domain.errors import PerdureError
from perdure.store.queue import Job
from tests.simulation.client import Client
from tests.simulation.scenarios import EDITED
from tests.simulation.world import Crash, Process, World

LATE = 11.0
"""Seconds: one more than the time after which a sweep considers an active session abandoned."""


class Injections:
    """The injections into one world; the name of a method is the name of its kind."""

    def __init__(self, world: World, client: Client) -> None:
        self._world, self._client = world, client
        world.inject = self._happen

    async def _happen(self, process: Process, where: str, kind: str) -> None:
        await KINDS[kind](self, process, where)

    def _another(self, process: Process) -> Process:
        """Another process; starts one if there is none."""
        others = [each for each in self._world.live() if each is not process]
        return others[0] if others else self._world.start()

    async def crash(self, process: Process, where: str) -> None:
        """The process dies here; its replacement sweeps at its start."""
        process.kill()
        raise Crash

    async def stop(self, process: Process, where: str) -> None:
        """The process is stopped, and drains within a grace period."""
        process.stopping = True
        grace = self._world.rng.choice((0.0, 0.5, 30.0))

        async def stop() -> None:
            await asyncio.wait([process.spawn(process.worker.drain(grace))])
            if process.alive:
                process.kill()

        self._world.keep(stop())

    async def fault(self, process: Process, where: str) -> None:
        """The operation at this point fails."""
        process.fault(where)

    async def stall(self, process: Process, where: str) -> None:
        """This step takes so long that another process takes the session over; then it continues."""
        await self._overtake_later(process, self._world.rng.choice((0.0, 0.0, 1.0, 40.0)))

    async def oversleep(self, process: Process, where: str) -> None:
        """This step takes so long that another process finishes the turn before it continues."""
        await self._overtake_later(process, 40.0)

    async def freeze(self, process: Process, where: str) -> None:
        """The whole process pauses while another takes over; then it continues."""
        process.thawed = self._world.loop.create_future()
        thawed = process.thawed
        try:
            await self._overtake_later(process, self._world.rng.choice((0.0, 1.0, 40.0)))
        finally:
            process.thawed = None
            thawed.set_result(None)

    async def _overtake_later(self, process: Process, then: float) -> None:
        other = self._another(process)
        other.spawn(sweep(other))
        await process.pause(LATE)
        other.spawn(sweep(other))
        # The queue hands out the job of a process whose heartbeats are late.
        other.queue.put(Job(self._world.store.caller.organization_id, self._world.session_id, again=True))
        if process.thawed is not None:
            for job in process.queue.tasks:
                other.queue.put(replace(job, again=True))
        await process.pause(then)

    async def overtake(self, process: Process, where: str) -> None:
        """Another process takes over every unfinished turn at once, so that two runners race."""
        other = self._another(process)
        other.spawn(sweep(other, stale_after=0))

    async def wake(self, process: Process, where: str) -> None:
        """A job is delivered again."""
        process.queue.put(Job(self._world.store.caller.organization_id, self._world.session_id))

    async def wake_elsewhere(self, process: Process, where: str) -> None:
        await self.wake(self._another(process), where)

    async def message(self, process: Process, where: str) -> None:
        await self._client.post(None, process)

    async def message_elsewhere(self, process: Process, where: str) -> None:
        await self._client.post(None, self._another(process))

    async def cancel(self, process: Process, where: str) -> None:
        await self._client.cancel(process)

    async def cancel_elsewhere(self, process: Process, where: str) -> None:
        await self._client.cancel(self._another(process))

    async def delete(self, process: Process, where: str) -> None:
        await self._client.delete(process)

    async def delete_elsewhere(self, process: Process, where: str) -> None:
        await self._client.delete(self._another(process))

    async def patch(self, process: Process, where: str) -> None:
        await self._client.patch(process)

    async def answer(self, process: Process, where: str) -> None:
        await self._client.answer(server=process)

    async def call_back(self, process: Process, where: str) -> None:
        """The answer to a callback arrives."""
        await self._client.call_back(process)

    async def call_back_elsewhere(self, process: Process, where: str) -> None:
        await self._client.call_back(self._another(process))

    async def decide(self, process: Process, where: str) -> None:
        """A person decides on the first of the pending approvals."""
        await self._client.answer(self._world.rng.choice(("allow", "reject", "reject_always")), 1, process)

    async def edit(self, process: Process, where: str) -> None:
        """A person allows the first of the pending approvals with other arguments."""
        await self._client.answer("allow", 1, process, {"seconds": EDITED})

    async def unplug(self, process: Process, where: str) -> None:
        """The next driver cannot be created, because the provider's settings are invalid."""
        self._world.unplugged += 1

    async def linger(self, process: Process, where: str) -> None:
        """This step takes a moment, so that others overtake it."""
        await process.pause(self._world.rng.choice((0.0, 0.0, 0.001, 0.5, 4.0)))


async def sweep(process: Process, **how: int) -> None:
    """One sweep, as the server's own loop does it."""
    with contextlib.suppress(PerdureError):
        await process.sweep.once(**how)
    with contextlib.suppress(PerdureError):
        if process.world.consents.signed_in_at is not None:
            await resume_signed_in(process.app)


KINDS: dict[str, Callable[[Injections, Process, str], Awaitable[None]]] = {
    name: method for name, method in vars(Injections).items() if not name.startswith("_")
}
"""By name: every public method of `Injections`."""

ROUGH = frozenset({"crash", "stop", "fault", "stall", "oversleep", "freeze"})
GENTLE = frozenset(KINDS) - ROUGH
"""Kinds after which a session must continue without a sweep: no process dies, fails or stalls."""
