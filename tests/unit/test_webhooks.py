"""Webhooks: signatures, filters, and when another attempt is made."""

from __future__ import annotations

import pytest

from perdure.domain.errors import InvalidInput
from perdure.domain.events import EVENT_DATA
from perdure.domain.webhooks import (
    DISABLE_AFTER,
    DISABLE_FAILURES,
    EVENTS,
    GIVE_UP_AFTER,
    LONGEST_WAIT,
    check_filter,
    hears,
    is_dead,
    key_of,
    new_secret,
    next_attempt,
    sign,
)

NOW = 1_700_000_000_000_000


def test_a_signature_is_that_of_the_specification() -> None:
    """The example of Standard Webhooks, which every library of it tests, too."""
    signed = sign(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert signed.headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert signed.headers["webhook-id"] == "msg_p5jXN8AQM9LWM0D4loKWxJek"
    assert signed.headers["webhook-timestamp"] == "1614265330"


def test_a_secret_is_base64_after_its_prefix_or_the_text_itself() -> None:
    assert key_of("a-secret-of-my-own") == b"a-secret-of-my-own"
    assert key_of(new_secret(bytes(range(32)))) == bytes(range(32))
    for bad in ("whsec_", "whsec_AAAA", "whsec_*" + "A" * 40, "whsec_" + "A" * 23, "short", "x" * 257):
        with pytest.raises(InvalidInput) as refused:
            key_of(bad)
        assert (refused.value.code, refused.value.field) == ("invalid_webhook_secret", "secret")
        assert bad not in refused.value.message


def test_a_filter_names_types_and_states() -> None:
    assert hears((), "task.message.sent", None)
    assert hears(("running",), "task.updated", "running")
    assert not hears(("running",), "task.updated", "failed")
    assert hears(("task.updated",), "task.updated", "failed")
    assert not hears(("task.updated", "queued"), "task.message.sent", None)
    check_filter((*EVENTS, "queued", "awaiting_input", "canceled"))
    with pytest.raises(InvalidInput, match=r"event_filter\[1\]"):
        check_filter(("queued", "task.reported"))


def test_every_kind_of_event_about_tasks_is_one_that_webhooks_hear_of() -> None:
    """But for reports of a sub-agent, which are in its own log: what they change is told in its parent's."""
    kinds = {kind for kind in EVENT_DATA if kind.startswith("task.")}
    assert kinds - {"task.reported"} == set(EVENTS)


def test_attempts_end_after_three_days_and_never_wait_much_longer_than_six_hours() -> None:
    now, failures = NOW, 0
    while True:
        failures += 1
        due = next_attempt(NOW, failures, now, None)
        if due is None:
            break
        assert 5_000_000 <= due - now <= LONGEST_WAIT * 1_000_000
        now = due
    assert NOW + GIVE_UP_AFTER - LONGEST_WAIT * 1_000_000 <= now <= NOW + GIVE_UP_AFTER
    assert 15 <= failures <= 40


def test_a_receiver_may_ask_for_more_patience_but_not_for_less() -> None:
    assert next_attempt(NOW, 1, NOW, 3600.0) == NOW + 3_600_000_000
    hasty = next_attempt(NOW, 1, NOW, 0.0)
    assert hasty is not None
    assert hasty >= NOW + 5_000_000


def test_only_many_failures_over_a_long_time_disable_a_webhook() -> None:
    assert is_dead(DISABLE_FAILURES, NOW, NOW + DISABLE_AFTER)
    assert not is_dead(DISABLE_FAILURES - 1, NOW, NOW + DISABLE_AFTER)
    assert not is_dead(1000, NOW, NOW + DISABLE_AFTER - 1)
    assert not is_dead(1000, None, NOW)
