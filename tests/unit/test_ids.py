"""Ids contain their kind, their time and, for events, their sequence."""

from __future__ import annotations

import uuid
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.errors import InvalidId
from perdure.domain.ids import (
    MAX_SEQUENCE,
    Prefix,
    check_id,
    event_id,
    is_id,
    new_event_id,
    new_id,
    sequence_of,
    span_of,
)

PREFIXES: tuple[Prefix, ...] = get_args(Prefix)
prefixes = st.sampled_from(PREFIXES)
sequences = st.integers(0, MAX_SEQUENCE)
instants = st.integers(0, (1 << 48) - 1)


def _uuid(identifier: str) -> uuid.UUID:
    return uuid.UUID(identifier.rsplit("_", 1)[1])


@given(sequences, instants, st.integers(0, (1 << 40) - 1))
def test_an_events_id_contains_its_sequence(sequence: int, millis: int, noise: int) -> None:
    assert sequence_of(event_id(sequence, millis, noise)) == sequence
    assert sequence_of(new_event_id(sequence, millis)) == sequence
    assert sequence_of(new_event_id(sequence)) == sequence


@given(prefixes, instants)
def test_an_id_is_a_uuid_of_version_7_with_its_time(prefix: Prefix, millis: int) -> None:
    for identifier in (new_id(prefix, millis), new_event_id(7, millis)):
        found = _uuid(identifier)
        assert (found.version, found.variant) == (7, uuid.RFC_4122)
        assert found.int >> 80 == millis


@given(prefixes, prefixes)
def test_an_id_is_valid_only_for_its_own_kind(prefix: Prefix, other: Prefix) -> None:
    identifier = new_id(prefix)
    assert check_id(identifier, prefix) == identifier
    assert is_id(identifier, other) == (prefix == other)


@given(prefixes, st.integers(0, 200), st.characters(exclude_categories=("Cs",)))
def test_a_changed_character_leaves_an_id_valid_only_if_it_is_a_hex_digit(
    prefix: Prefix, place: int, character: str
) -> None:
    identifier = new_id(prefix)
    place %= len(identifier)
    changed = identifier[:place] + character + identifier[place + 1 :]
    assert is_id(changed, prefix) == (
        changed == identifier or (place > len(prefix) and character in "0123456789abcdef")
    )


@given(prefixes, st.text(max_size=60))
def test_text_that_is_not_an_id_is_refused_and_the_error_names_the_form(prefix: Prefix, text: str) -> None:
    with pytest.raises(InvalidId, match=f"{prefix}_<32 lower-case hex digits>"):
        check_id(text, prefix)


MALFORMED = (
    "",
    "session",
    "session_",
    "01890a5d-ac96-774b-bcce-b302099a8057",
    "01890a5dac96774bbcceb302099a8057",
    "session-01890a5dac96774bbcceb302099a8057",
    "session_01890A5DAC96774BBCCEB302099A8057",
    "SESSION_01890a5dac96774bbcceb302099a8057",
    "session_01890a5dac96774bbcceb302099a805",
    "session_01890a5dac96774bbcceb302099a80570",
    "session_01890a5dac96774bbcceb302099a8057\n",
    " session_01890a5dac96774bbcceb302099a8057",
    "session_01890a5dac96774bbcceb302099a805\u0660",
    "session_01890a5dac96774bbcceb302099a80\uff11\uff12",
    "agent_01890a5dac96774bbcceb302099a8057",
    "session_session_01890a5dac96774bbcceb302",
)


@pytest.mark.parametrize("text", MALFORMED)
def test_no_other_text_is_accepted_as_a_sessions_id(text: str) -> None:
    assert not is_id(text, "session")


@pytest.mark.parametrize("text", [*MALFORMED, "session_01890a5dac96774bbcceb302099a8057"])
def test_only_an_events_id_has_a_sequence(text: str) -> None:
    with pytest.raises(InvalidId):
        sequence_of(text)


def test_ids_of_the_same_moment_differ() -> None:
    assert len({new_id("turn", 1) for _ in range(1000)}) == 1000


@given(prefixes, st.text(max_size=20), st.text(max_size=20))
def test_span_ids_are_deterministic_and_distinct(prefix: Prefix, name: str, other: str) -> None:
    identifier = new_id(prefix)
    assert span_of(identifier, name) == span_of(identifier, name)
    assert (span_of(identifier, name) == span_of(identifier, other)) == (name == other)
    assert len(span_of(identifier, name)) == 16
