"""How often a list of tools is asked for again, however often its server says that it has changed."""

from __future__ import annotations

from perdure.net.mcp.changes import BURST, CHANGE_EVERY, Changes


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_few_changes_count_at_once() -> None:
    changes: Changes[str] = Changes(10, Clock())
    for count in range(1, BURST + 1):
        changes.note("a")
        assert changes.count("a") == count
    assert changes.count("b") == 0


def test_a_flood_counts_slowly_and_its_last_change_is_not_lost() -> None:
    clock = Clock()
    changes: Changes[str] = Changes(10, clock)
    for _ in range(1_000):
        changes.note("a")
    assert changes.count("a") == BURST
    clock.now += CHANGE_EVERY
    assert changes.count("a") == BURST + 1
    clock.now += CHANGE_EVERY * 100
    assert changes.count("a") == BURST + 1
    for _ in range(1_000):
        changes.note("a")
        clock.now += CHANGE_EVERY / 100
    assert changes.count("a") <= 2 * BURST + 1 + 10


def test_the_servers_that_are_remembered_are_limited() -> None:
    changes: Changes[int] = Changes(2, Clock())
    for key in range(5):
        changes.note(key)
    assert [changes.count(key) for key in range(5)] == [0, 0, 0, 1, 1]
