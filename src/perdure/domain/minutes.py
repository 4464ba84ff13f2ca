"""Counts of the last minute, from the counts of this minute and the one before."""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.times import Micros

MINUTE: Micros = 60_000_000


class Minutes(Struct):
    """What was counted in a minute and in the one before, here and in other processes.

    How much of the count of the minute before came less than a minute ago is estimated: as if all of it had
    come evenly.

    Attributes:
        minute: the minute's number since the epoch.
        others: what other processes have counted in it.
        told: what of `now` other processes can know.
    """

    minute: int
    now: int = 0
    before: int = 0
    others: int = 0
    others_before: int = 0
    told: int = 0

    def turn(self, ts: Micros) -> None:
        """Go on to the minute of this time."""
        minute = ts // MINUTE
        if minute <= self.minute:
            return  # clocks go back
        follows = minute == self.minute + 1
        self.before, self.others_before = (self.now, self.others) if follows else (0, 0)
        self.now = self.others = self.told = 0
        self.minute = minute

    def sum(self, ts: Micros) -> int:
        """The count of the last minute."""
        self.turn(ts)
        left = MINUTE - min(max(ts - self.minute * MINUTE, 0), MINUTE)
        return self.now + self.others + (self.before + self.others_before) * left // MINUTE

    def wait(self, ts: Micros, limit: int) -> Micros:
        """The microseconds until the count of the last minute is below the limit, if nothing is added."""
        if self.sum(ts) < limit:
            return 0
        current, earlier = self.now + self.others, self.before + self.others_before
        passed = min(max(ts - self.minute * MINUTE, 0), MINUTE)
        if current < limit:  # what is left of the minute before has to become less
            return max(MINUTE - (limit - current) * MINUTE // earlier - passed + 1, 1)
        return MINUTE - passed + MINUTE - limit * MINUTE // current + 1
