"""Rules of sessions: tags, titles, previews, and the projection of the log."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.errors import InvalidInput
from perdure.domain.events import NewEvent, ToolCompletedData
from perdure.domain.messages import preview_of
from perdure.domain.projection import Projection, project
from perdure.domain.sessions import (
    MAX_TAG,
    MAX_TAGS,
    UpdateSession,
    action_links,
    clean_tags,
    clean_title,
    editable_fields,
    has_control,
)
from tests.unit.logs import Writer, logs

CONTROLS = [chr(code) for code in (*range(32), *range(0x7F, 0xA0))]
ODD = (
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",  # a family: three people held together by joiners
    "e\u0301\u0323\u0302",  # one letter, three marks
    "\u202e\u05e9\u05dc\u05d5\u05dd\u202c",  # right to left
    "\u200b",  # zero width
    "\U0001d518\U00020000",  # four bytes each
    "\u4f60\u597d",
    "\ufdfa",  # one character, eighteen when taken apart
    "\U0001f1ea\U0001f1fa",
    "\u0130\u00df",
)
words = st.one_of(st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=30), st.sampled_from(ODD))
spaces = st.sampled_from(["", " ", "  ", "\u00a0", "\u3000"])
good_tags = st.tuples(spaces, words, spaces).map("".join).filter(lambda tag: 0 < len(tag.strip()) <= MAX_TAG)
texts = st.lists(st.one_of(words, spaces, st.sampled_from(["\n", "\t"])), max_size=120).map("".join)


@given(st.lists(good_tags, max_size=MAX_TAGS))
def test_cleaned_tags_are_trimmed_and_distinct_and_keep_their_order(tags: list[str]) -> None:
    cleaned = clean_tags(tags)
    assert list(cleaned) == list(dict.fromkeys(tag.strip() for tag in tags))


@given(st.lists(good_tags, max_size=MAX_TAGS))
def test_cleaning_tags_is_idempotent(tags: list[str]) -> None:
    assert clean_tags(clean_tags(tags)) == clean_tags(tags)


@given(st.lists(good_tags, max_size=5), st.sampled_from(CONTROLS), words.filter(bool), words.filter(bool))
def test_a_tag_with_a_control_character_inside_is_refused_and_named(
    tags: list[str], control: str, before: str, after: str
) -> None:
    bad = f"x{before[:20]}{control}{after[:20]}x"
    with pytest.raises(InvalidInput) as refused:
        clean_tags([*tags, bad])
    assert refused.value.field == f"tags[{len(tags)}]"


@pytest.mark.parametrize("blank", ["", " ", "\t", "\n", "\u00a0\u2003", "\u3000"])
def test_a_blank_tag_is_refused(blank: str) -> None:
    with pytest.raises(InvalidInput, match="must not be empty"):
        clean_tags(["fine", blank])


@pytest.mark.parametrize("character", ["x", "\U0001f600", "\u05d0", "\u0301", "\ufdfa"])
def test_a_tag_may_have_a_hundred_characters_of_any_size_in_bytes(character: str) -> None:
    assert clean_tags([character * MAX_TAG]) == (character * MAX_TAG,)
    with pytest.raises(InvalidInput, match="at most 100 characters"):
        clean_tags([character * (MAX_TAG + 1)])


def test_fifty_tags_are_allowed_and_duplicates_do_not_count() -> None:
    fifty = [f"tag {number}" for number in range(MAX_TAGS)]
    assert clean_tags([*fifty, *fifty]) == tuple(fifty)
    with pytest.raises(InvalidInput, match="at most 50"):
        clean_tags([*fifty, "one more"])


@given(words)
def test_a_title_without_control_characters_stays_as_it_is(title: str) -> None:
    assert clean_title(title) == title


@given(words, st.sampled_from(CONTROLS), words)
def test_a_title_with_a_control_character_is_refused(before: str, control: str, after: str) -> None:
    with pytest.raises(InvalidInput):
        clean_title(before + control + after)


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_exactly_the_control_characters_are_refused(text: str) -> None:
    assert has_control(text) == any(character in CONTROLS for character in text)


@given(texts, st.integers(0, 300))
def test_a_preview_is_the_beginning_of_the_text_cut_between_characters(text: str, limit: int) -> None:
    preview = preview_of(text, limit)
    assert text.strip().startswith(preview)
    assert len(preview) == min(limit, len(text.strip()))
    assert preview.encode().decode() == preview


@given(logs(), st.data())
def test_projecting_a_log_in_batches_results_in_the_same_row_as_at_once(
    log: list[NewEvent], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(log)))
    assert project(project(Projection(), log[:cut]), log[cut:]) == project(Projection(), log)


@given(logs())
def test_the_projection_of_a_log_keeps_its_promises(log: list[NewEvent]) -> None:
    row = project(Projection(), log)
    assert row.head == len(log)
    assert 0 <= row.turn_after <= row.head
    assert (row.wake_at is not None) == (row.status == "waiting_for_tool_results")
    if row.status in {"idle", "started"}:
        assert row.turn_id is None
    ends = [event for event in log if event.type in {"turn.started", "turn.sealed"}]
    assert row.finished_at == (ends[-1].ts if ends and ends[-1].type == "turn.sealed" else None)
    usages = [event.data.metadata.usage for event in log if event.type == "llm.generation"]
    assert (row.usage.input_tokens if row.usage else 0) == sum(
        usage.input_tokens for usage in usages if usage
    )


def _parked_on_two_questions() -> Projection:
    """Return a session that waits for the approval of two tool calls."""
    return Projection(head=5, status="waiting_for_tool_results", turn_id="turn_1", wake_at=900)


def _word(name: str, status: Any) -> NewEvent:
    writer = Writer(lambda strategy: None)
    writer.message()
    data = ToolCompletedData("call_1", name, status == "success", status)
    return NewEvent(data, writer.events[0].context, 7)


@pytest.mark.parametrize(
    ("word", "status"),
    [
        (_word("approve_tool_call", "success"), "waiting_for_tool_results"),
        (_word("approve_tool_call", "rejected"), "waiting_for_tool_results"),
        (_word("drop_table", "rejected"), "waiting_for_tool_results"),
        (_word("ask_user", "success"), "active"),
        (_word("ask_user", "timeout"), "active"),
    ],
)
def test_one_decision_of_several_leaves_the_session_parked(word: NewEvent, status: str) -> None:
    row = project(_parked_on_two_questions(), [word])
    assert row.status == status
    assert (row.wake_at is None) == (status == "active")


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("status", ["started", "active", "idle", "waiting_for_tool_results"])
def test_a_session_lists_its_allowed_actions(status: Any, pinned: bool) -> None:
    offered = {action.rel for action in action_links("session_1", status, pinned)}
    assert offered - {"cancel"} == {"self", "events", "update", "delete", "unpin" if pinned else "pin"}
    assert ("cancel" in offered) == (status in {"active", "waiting_for_tool_results"})


def test_what_counts_as_another_version_of_a_session_is_what_a_client_can_change() -> None:
    assert tuple(inspect.signature(editable_fields).parameters) == UpdateSession.__struct_fields__
