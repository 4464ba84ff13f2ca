"""Who speaks: names at the beginning of messages, and labels in what another agent reads."""

from __future__ import annotations

import pytest

from perdure.domain.compaction import record_of
from perdure.domain.derived_messages import as_read_by
from perdure.domain.ids import AgentId, MessageId, SessionId
from perdure.domain.messages import Message, Role, TextPart, ToolCallId, ToolCallPart, text_of
from perdure.domain.participants import host_id, mentioned
from perdure.domain.speakers import Reader, Speaker

BILLING, REFUNDS = AgentId("agent_b"), AgentId("agent_r")


def message(text: str, author: AgentId | None = None, role: Role = "agent") -> Message:
    speaker = None if author is None else Speaker(author, author.removeprefix("agent_"))
    return Message(MessageId("message_1"), role, (TextPart(text),), "", author=speaker)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("@billing what?", "billing"),
        (" \n@Billing-2, what?", "billing-2"),
        ("@billing", "billing"),
        ("@billing: what?", "billing"),
        ("ask @billing", None),
        ("@", None),
        ("@ billing", None),
        ("@billing_x", None),
        ("@büro", None),
        (f"@{'x' * 65}", None),
        ("", None),
    ],
)
def test_a_message_names_an_agent_only_at_its_beginning(text: str, name: str | None) -> None:
    assert mentioned(text) == name


def test_each_agent_reads_the_names_of_the_others_and_not_its_own() -> None:
    said = [message("One."), message("Two.", BILLING), message("Three.", REFUNDS), message("?", role="user")]

    def read(reader: Reader | None) -> list[str]:
        return [text_of(each.content) for each in as_read_by(said, reader)]

    label = "[Written by another agent, {}:]\n"
    assert read(None) == ["One.", f"{label.format('b')}Two.", f"{label.format('r')}Three.", "?"]
    assert read(Reader(BILLING, "triage")) == [
        f"{label.format('triage')}One.",
        "Two.",
        f"{label.format('r')}Three.",
        "?",
    ]


def test_a_message_of_calls_alone_gets_a_name_of_its_own() -> None:
    call = ToolCallPart(ToolCallId("call_1"), "clock", {})
    (read,) = as_read_by([Message(MessageId("m"), "agent", (call,), "")], Reader(BILLING, "triage"))
    assert read.content == (TextPart("[Written by another agent, triage:]"), call)


def test_a_record_for_a_summary_has_the_names() -> None:
    assert record_of([message("One."), message("Two.", BILLING)]) == "[agent] One.\n\n[agent b] Two."


def test_hosts_have_ids_of_their_own_that_never_change() -> None:
    one, two = SessionId("session_1"), SessionId("session_2")
    ids = {host_id(session, kind) for session in (one, two) for kind in ("agent", "user")}
    assert len(ids) == 4
    assert host_id(one, "agent") in ids
