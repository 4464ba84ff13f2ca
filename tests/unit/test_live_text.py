"""What followers see of a message while the model writes it."""

from __future__ import annotations

from perdure.domain.messages import MAX_TEXT
from perdure.store.bus import Live, LocalBus
from tests.unit.live import SESSION, live_text


async def published(*pieces: str) -> list[str]:
    """The texts that a follower gets when a model has written these pieces."""
    bus = LocalBus()
    subscription = bus.subscribe(SESSION)
    live = live_text(bus)
    texts = []
    for piece in (*pieces, None):
        if piece is None:
            live.finish()
        else:
            live.add("text", piece)
        signals, _ = subscription.drain()
        texts += [signal.text for signal in signals if isinstance(signal, Live)]
    return texts


async def test_the_first_piece_is_published_at_once_and_the_others_together() -> None:
    assert await published("a", "", "b", "c") == ["a", "bc"]


async def test_what_cannot_be_stored_is_replaced_in_every_piece() -> None:
    assert await published("a\x00", "b\x00", "\ud83d") == ["a\ufffd", "b\ufffd?"]


async def test_text_that_the_log_will_not_contain_is_not_published() -> None:
    assert await published("x" * MAX_TEXT, "y", "z") == ["x" * MAX_TEXT]
    assert await published("x", "y" * MAX_TEXT, "z") == ["x", "y" * MAX_TEXT + "z"]


async def test_a_checked_text_that_was_not_held_back_is_published_once() -> None:
    bus = LocalBus()
    subscription = bus.subscribe(SESSION)
    live = live_text(bus)
    live.add("text", "a")
    live.add("text", "b")
    live.finish_checked({"text": "ab"})
    signals, _ = subscription.drain()
    assert [signal.text for signal in signals if isinstance(signal, Live)] == ["a", "b"]
