"""What policy hooks change: calls as the turn's state has them, and what the model receives."""

from __future__ import annotations

import pytest

from perdure.domain.decisions import Decided
from perdure.domain.derived_messages import result_message, with_text
from perdure.domain.events import ChangedText, HookDecidedData, ToolCompletedData
from perdure.domain.ids import MessageId, ToolCallId, TurnId
from perdure.domain.messages import ImagePart, Message, TextPart, ToolResultPart
from perdure.domain.policy_hooks import Hook, NoDecision, read_answer, sealed_bytes, sealed_text

CALL = ToolCallId("call_1")


def modified(**more: object) -> HookDecidedData:
    data = HookDecidedData(
        TurnId("turn_1"), "dlp", "before_tool", "modify", tool_call_id=CALL, arguments={"path": "/safe"}
    )
    return HookDecidedData(**{name: getattr(data, name) for name in data.__struct_fields__} | more)  # type: ignore[arg-type]


def result_of(decided: Decided | None, changed: HookDecidedData | None) -> object:
    data = ToolCompletedData(CALL, "write_file", True, "success", (TextPart("written"),))
    (part,) = result_message(data, 0, None, decided, changed).content
    assert isinstance(part, ToolResultPart)
    return part.result


def test_the_model_is_told_who_changed_the_arguments_of_its_call() -> None:
    ran = 'changed the arguments of this call before it ran. It ran with: {"path":"/safe"}'
    assert result_of(None, None) == "written"
    assert result_of(None, modified()) == f"[A policy {ran}]\nwritten"
    assert (
        result_of(None, modified(reason="Only here.")) == f"[A policy {ran} The reason: Only here.]\nwritten"
    )
    person = Decided("allow", "api", arguments={"path": "/safe"}, reason="Mine.")
    assert result_of(person, None) == f"[The user {ran} The user said: Mine.]\nwritten"
    # Whoever changed them last: a person is asked after the hooks.
    assert result_of(person, modified()) == f"[The user {ran} The user said: Mine.]\nwritten"
    assert result_of(Decided("allow", "api"), modified()) == f"[A policy {ran}]\nwritten"


def test_another_text_keeps_the_rest_of_a_message() -> None:
    image = ImagePart(base64="aGk=", media_type="image/png")
    message = Message(MessageId("message_1"), "user", (TextPart("4711"), image), "2026-01-01T00:00:00Z")
    changed = with_text(message, (ChangedText(message.id, "####"),))
    assert changed.content == (TextPart("####"), image)
    assert with_text(message, (ChangedText(MessageId("message_2"), "####"),)) is message


@pytest.mark.parametrize(
    ("event", "body"),
    [
        ("before_tool", b'{"decision": "modify", "result": "x"}'),
        ("after_tool", b'{"decision": "modify", "arguments": {}}'),
        ("before_model", b'{"decision": "modify", "messages": []}'),
        ("before_model", b'{"decision": "modify", "messages": [{"id": "message_1"}]}'),
        ("before_tool", b'{"decision": "ALLOW"}'),
        ("before_tool", b"\xff"),
        ("before_tool", b""),
    ],
)
def test_an_answer_to_another_question_is_no_decision(event: str, body: bytes) -> None:
    with pytest.raises(NoDecision):
        read_answer(body, event)  # type: ignore[arg-type]


def test_an_answer_is_read_with_fields_that_nobody_knows() -> None:
    answer = read_answer(b'{"decision": "block", "reason": " a\\n b ", "more": 1}', "before_model")
    assert (answer.decision, answer.reason) == ("block", "a b")
    assert (
        len(read_answer(b'{"decision": "block", "reason": "%s"}' % (b"x" * 900), "after_tool").reason or "")
        == 500
    )


def test_a_sealed_secret_is_text_in_a_configuration() -> None:
    assert sealed_bytes(sealed_text(b"\x00\xff")) == b"\x00\xff"
    for each in ("whsec_AAAA", "sealed:*"):
        with pytest.raises(ValueError, match=r"."):
            sealed_bytes(each)
    one, other = (Hook(url=f"https://{host}/", secret="s") for host in ("a.example", "b.example"))
    assert one.binding != other.binding
    assert (one.label, Hook(url="https://a.example/", secret="s", name="dlp").label) == ("a.example", "dlp")
