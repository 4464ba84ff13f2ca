"""Sends events to webhooks.

Every process with a worker may run one: a line of events is taken by a compare-and-set.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter

from aiohttp.abc import AbstractResolver

from perdure.app.context import Services
from perdure.app.webhook_deliveries import Attempt, free_all, look_due, note_reply, take_attempt
from perdure.domain.errors import PerdureError, Unavailable
from perdure.domain.ids import OrgId
from perdure.domain.webhooks import Signed, WebhookKey
from perdure.net.addresses import SystemResolver
from perdure.net.webhook_http import post_signed

log = logging.getLogger("perdure.webhooks")

CHECK_EVERY = 1.0
"""Seconds between two checks, and so the delay of a first attempt at most."""
AT_ONCE = 64
"""The most attempts that a process makes at a time. An organization has at most as many places as are left
to others: half of them if it is alone."""
OF_ONE = 4
"""The most of them for one webhook; one that fails has a single one, so that it holds up no others."""


class Deliverer:
    """Runs beside a worker, in every process that has one.

    Args:
        resolver: resolves the names of receivers; the system's resolver by default.
        every: seconds between two checks.
    """

    def __init__(
        self, app: Services, resolver: AbstractResolver | None = None, every: float = CHECK_EVERY
    ) -> None:
        self._app = app
        self._every = every
        self._resolver = resolver or SystemResolver()
        self._running: set[asyncio.Task[None]] = set()
        self._of_hook: Counter[WebhookKey] = Counter()
        self._of_org: Counter[OrgId] = Counter()
        self._failing: set[WebhookKey] = set()
        self._more = asyncio.Event()

    async def run(self) -> None:
        """Send what is due, until cancelled. Attempts that are under way are cancelled, too."""
        try:
            await self._run()
        finally:
            for task in self._running:
                task.cancel()

    async def _run(self) -> None:
        if self._app.database.dialect == "sqlite":
            await self._safely(free=True)
        while True:
            await self._safely()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._every):
                    await self._more.wait()

    async def _safely(self, *, free: bool = False) -> None:
        try:
            if free:
                await free_all(self._app)
            await self.once()
        except PerdureError as error:
            log.warning("events cannot be sent to webhooks: %s", error.message)
        except Exception:
            log.exception("events cannot be sent to webhooks")

    async def once(self) -> int:
        """Begin the attempts that are due, as far as there are places; return how many."""
        self._more.clear()
        begun, broken = 0, set[WebhookKey]()
        while room := AT_ONCE - len(self._running):
            busy = (*broken, *(hook for hook in self._of_hook if self._is_busy(hook)))
            full = tuple(org for org in self._of_org if self._has_enough(org))
            before = begun
            for line in await look_due(self._app, busy, room, without_orgs=full):
                if self._is_busy(line.hook_id) or self._has_enough(line.org_id):
                    continue
                try:
                    attempt = await take_attempt(self._app, line)
                except Unavailable:
                    raise
                except Exception:  # it must not keep others waiting
                    log.exception("nothing can be sent to the webhook %s", line.hook_id)
                    broken.add(line.hook_id)
                    continue
                if attempt is not None:
                    self._begin(attempt)
                    begun += 1
            if begun == before:  # what else there may be is for the next check
                break
        return begun

    async def settled(self) -> None:
        """Wait until no attempt is under way."""
        while self._running:
            await asyncio.wait(set(self._running))

    def _is_busy(self, hook: WebhookKey) -> bool:
        return self._of_hook[hook] >= (1 if hook in self._failing else OF_ONE)

    def _has_enough(self, org: OrgId) -> bool:
        return self._of_org[org] >= AT_ONCE - len(self._running)

    def _begin(self, attempt: Attempt) -> None:
        hook, org = attempt.line.hook_id, attempt.line.org_id
        self._of_hook[hook] += 1
        self._of_org[org] += 1
        (self._failing.add if attempt.failing else self._failing.discard)(hook)
        task = asyncio.create_task(self._send(attempt))
        self._running.add(task)
        task.add_done_callback(lambda done: self._end(done, hook, org))

    def _end(self, task: asyncio.Task[None], hook: WebhookKey, org: OrgId) -> None:
        self._running.discard(task)
        self._of_org[org] -= 1
        if not self._of_org[org]:
            del self._of_org[org]
        self._of_hook[hook] -= 1
        if not self._of_hook[hook]:
            del self._of_hook[hook]
            self._failing.discard(hook)
        self._more.set()

    async def _send(self, attempt: Attempt) -> None:
        try:
            reply = attempt.request
            if isinstance(reply, Signed):
                reply = await post_signed(
                    attempt.url, reply, self._app.private_addresses, resolver=self._resolver
                )
            await note_reply(self._app, attempt, reply)
        except PerdureError as error:  # the line is free again after its lease
            log.warning("a delivery cannot be noted: %s", error.message)
        except Exception:
            log.exception("an event cannot be sent to a webhook")
