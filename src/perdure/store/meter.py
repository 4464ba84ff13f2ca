"""What this process knows of limits and of how much of them is used: on the hot path, nothing else is asked.

A second at most passes until it knows what other processes have counted. Its own counts are exact.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Callable

from msgspec import Struct, field

from perdure.domain.ids import OrgId, SessionId, UserId
from perdure.domain.limits import Counted, LimitName, LimitsPair, LimitValues, Reached
from perdure.domain.minutes import MINUTE, Minutes
from perdure.domain.parked import LimitScope
from perdure.domain.times import Micros
from perdure.store.database import Database, Tx
from perdure.store.limits import CountKey, changed_limits, counts_of_others, share_counts
from perdure.store.processes import count_live
from perdure.store.turn_slots import OrgTurns, full, turn_counts

STALE = 3.0
"""Seconds after which the counts of turns are no longer relied on."""
MARGIN = 60_000_000
"""Microseconds by which clocks of processes may differ, when changes of limits are read."""
OTHERS = 8
"""How many processes may begin turns as this one does, without looking at the organization's turns, while
less than half of the limit is used. This holds as long as it is not known how many there are."""
LEAST = 64
"""Lower limits are looked up for each turn when there may be other processes."""

_NAMES: dict[Counted, LimitName] = {"requests": "requests_per_minute", "tokens": "tokens_per_minute"}
_NOBODY = UserId("")


class _Begun(Struct):
    """A turn that began here, and that the counts may not have yet. `settled`: its row has it."""

    owner_id: UserId
    settled: bool = False


class Meter(Struct):
    """Limits, and what is used of them.

    Args:
        most: the server's limits, which no organization's are above.
        alone: whether no other process uses the database.
        monotonic: a clock in seconds, for the age of what is known.
    """

    most: LimitsPair = LimitsPair()
    alone: bool = True
    monotonic: Callable[[], float] = time.monotonic
    process: str = field(default_factory=lambda: secrets.token_hex(8))
    released: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a turn ended, and others of its organization wait."""
    _set: dict[OrgId, dict[LimitScope, LimitValues]] = {}
    _effective: dict[OrgId, LimitsPair] = {}
    _minutes: dict[CountKey, Minutes] = {}
    _turns: dict[OrgId, OrgTurns] = {}
    _begun: dict[OrgId, dict[SessionId, _Begun]] = {}
    _processes: int = OTHERS
    """How many processes may begin turns now. One more than are known counts, for one that starts."""
    _looked_at: float = float("-inf")
    _read_until: Micros = 0

    def limits(self, org_id: OrgId) -> LimitsPair:
        """The limits that hold in an organization."""
        return self._effective.get(org_id, self.most)

    def learn(self, org_id: OrgId, values: dict[LimitScope, LimitValues]) -> None:
        """Note the limits that were set for an organization."""
        known = self._set.setdefault(org_id, {})
        known.update(values)
        own = LimitsPair(known.get("organization", LimitValues()), known.get("user", LimitValues()))
        self._effective[org_id] = own.within(self.most)

    def used(self, what: Counted, org_id: OrgId, user_id: UserId | None, now: Micros) -> int:
        """What was counted in the last minute: of a user, or of the whole organization."""
        minutes = self._minutes.get(CountKey(what, org_id, user_id or _NOBODY))
        return 0 if minutes is None else minutes.sum(now)

    def count(self, what: Counted, org_id: OrgId, user_id: UserId, amount: int, now: Micros) -> None:
        """Count something of a user."""
        for owner in (_NOBODY, user_id):
            key = CountKey(what, org_id, owner)
            minutes = self._minutes.get(key)
            if minutes is None:
                minutes = self._minutes[key] = Minutes(now // MINUTE)
            minutes.turn(now)
            minutes.now += amount

    def reached(self, what: Counted, org_id: OrgId, user_id: UserId, now: Micros) -> Reached | None:
        """Return the limit by the minute that is reached; None if there is room."""
        most, name = self.limits(org_id), _NAMES[what]
        if getattr(most.organization, name) is None and getattr(most.user, name) is None:
            return None
        scopes: tuple[tuple[LimitScope, LimitValues, UserId], ...] = (
            ("organization", most.organization, _NOBODY),
            ("user", most.user, user_id),
        )
        for scope, values, owner in scopes:
            limit = getattr(values, name)
            if limit is None or (minutes := self._minutes.get(CountKey(what, org_id, owner))) is None:
                continue
            if wait := minutes.wait(now, limit):
                return Reached(name, scope, limit, minutes.sum(now), wait)
        return None

    def take_request(self, org_id: OrgId, user_id: UserId, now: Micros) -> None:
        """Count a request. Raises RateLimited, with the seconds until there may be room."""
        reached = self.reached("requests", org_id, user_id, now)
        if reached is not None:
            seconds = math.ceil((reached.wait or 0) / 1_000_000)
            raise reached.refusal(f"retry in {seconds} s, as Retry-After says")
        self.count("requests", org_id, user_id, 1, now)

    def may_begin(self, org_id: OrgId, session_id: SessionId, owner_id: UserId) -> bool:
        """Whether a turn certainly has room, so that nothing has to be looked up. It then counts as begun."""
        most = self.limits(org_id)
        limits = [each.active_turns for each in (most.organization, most.user)]
        if limits == [None, None]:
            return True
        if self.monotonic() - self._looked_at > STALE:
            return False
        begun = self._begun.setdefault(org_id, {})
        # The turn itself may be one of them: what it did since was no model call yet.
        owners = [each.owner_id for other, each in begun.items() if other != session_id]
        if not self.alone:
            if any(limit is not None and limit < LEAST for limit in limits):
                return False
            halves = [None if limit is None else limit // 2 for limit in limits]
            most = LimitsPair(LimitValues(active_turns=halves[0]), LimitValues(active_turns=halves[1]))
            owners *= self._processes
        if full(self._turns.get(org_id) or OrgTurns(), owner_id, most, owners) is not None:
            return False
        begun[session_id] = _Begun(owner_id)
        return True

    def took(self, org_id: OrgId, session_id: SessionId, owner_id: UserId) -> None:
        """Note that a turn began whose row has it, since the counts were read."""
        self._begun.setdefault(org_id, {})[session_id] = _Begun(owner_id, settled=True)

    def settle(self, org_id: OrgId, session_id: SessionId) -> None:
        """Note that the row of a turn that `may_begin` has it by now, or that it has not begun."""
        begun = self._begun.get(org_id, {}).get(session_id)
        if begun is not None:
            begun.settled = True

    def left(self, org_id: OrgId, session_id: SessionId) -> None:
        """Note that the row of a turn that began here says that it is not active any more."""
        self._begun.get(org_id, {}).pop(session_id, None)

    def pending(self, org_id: OrgId, session_id: SessionId | None = None) -> list[UserId]:
        """The owners of turns that have begun here, and that no row has yet. `session_id`: not that one's."""
        begun = list(self._begun.get(org_id, {}).items())  # transactions ask from another thread
        return [each.owner_id for other, each in begun if other != session_id and not each.settled]

    def waits(self, org_id: OrgId) -> None:
        """Note that a turn of the organization waits for others to end."""
        self._turns.setdefault(org_id, OrgTurns()).for_all += 1

    def ended(self, org_id: OrgId) -> None:
        """Note that a turn of the organization ended, or rests."""
        turns = self._turns.get(org_id)
        if turns is not None and turns.waiting:
            self.released.set()

    def waiting(self) -> list[OrgId]:
        """The organizations of which turns wait for others to end."""
        return [org_id for org_id, turns in self._turns.items() if turns.waiting]

    async def refresh(self, database: Database, now: Micros) -> None:
        """Read what has changed, and tell other processes what was counted here. Raises Unavailable."""
        settled = [
            (org_id, session_id, each)
            for org_id, begun in self._begun.items()
            for session_id, each in begun.items()
            if each.settled
        ]
        moment, minute, since = self.monotonic(), now // MINUTE, max(0, self._read_until - MARGIN)
        told = self._untold(minute, now)
        if told:
            counts = [(key, amount) for key, amount in told.items()]
            await database.write(lambda tx: share_counts(tx, self.process, minute, counts))
        shared = any(self._limited(key) for key in self._minutes)

        async def body(
            tx: Tx,
        ) -> tuple[
            dict[OrgId, OrgTurns],
            dict[OrgId, dict[LimitScope, LimitValues]],
            dict[tuple[int, CountKey], int],
            int,
        ]:
            others = await counts_of_others(tx, self.process, minute - 1) if shared else {}
            live = 0 if self.alone else await count_live(tx)
            return await turn_counts(tx), await changed_limits(tx, since), others, live

        self._turns, changed, others, live = await database.read(body)
        self._processes = live + 1 if live else OTHERS
        self._looked_at, self._read_until = moment, now
        for org_id, session_id, each in settled:
            begun = self._begun.get(org_id, {})
            if begun.get(session_id) is each:  # and not the session's next turn
                del begun[session_id]
        self._begun = {org_id: begun for org_id, begun in self._begun.items() if begun}
        for org_id, values in changed.items():
            self.learn(org_id, values)
        self._hear(others, minute)
        for key, amount in told.items():
            if (minutes := self._minutes.get(key)) is not None and minutes.minute == minute:
                minutes.told = max(minutes.told, amount)

    def _untold(self, minute: int, now: Micros) -> dict[CountKey, int]:
        """What was counted here of this minute and others do not know; forgets what is over."""
        found = {}
        for key, minutes in list(self._minutes.items()):
            if minutes.minute < minute - 1:
                del self._minutes[key]
                continue
            minutes.turn(now)
            if minutes.now > minutes.told and self._limited(key):
                found[key] = minutes.now
        return found

    def _limited(self, key: CountKey) -> bool:
        most = self.limits(key.org_id)
        values = most.user if key.user_id else most.organization
        return getattr(values, _NAMES[key.what]) is not None

    def _hear(self, others: dict[tuple[int, CountKey], int], minute: int) -> None:
        for (of, key), amount in others.items():
            minutes = self._minutes.setdefault(key, Minutes(minute))
            if of == minutes.minute:
                minutes.others = amount
            elif of == minutes.minute - 1:
                minutes.others_before = amount
