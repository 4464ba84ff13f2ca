"""Redaction does not depend on how a text is truncated or split into pieces."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain import redaction
from perdure.domain.events import EventContext, InputMessageData, NewEvent, OutputAcceptedData
from perdure.domain.ids import MessageId, TurnId
from perdure.domain.messages import JsonValue, Message, TextPart
from perdure.domain.patterns import EXCERPT, compile_regex, matching_lines
from perdure.domain.redaction import Redactor, StreamRedactor, forms_of, redact_event
from perdure.engine.live import ToolText

FEW = st.text(alphabet='ab"\\ é\ud83d', min_size=4, max_size=9)
"""A small alphabet, so that values occur by chance and overlap."""


@pytest.fixture(scope="module", autouse=True, params=["searched one by one", "compiled"])
def how_prefixes_are_found(request: pytest.FixtureRequest) -> Iterator[None]:
    """A redactor that has searched much compiles what it searches for; both ways find the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redaction, "COMPILE_AFTER", 0 if request.param == "compiled" else 1 << 60)
        yield


@given(st.lists(FEW.filter(lambda text: text.isprintable()), min_size=1, max_size=3), st.data())
def test_no_form_of_a_secret_is_left_however_a_text_is_split(values: list[str], data: st.DataObject) -> None:
    redactor = Redactor({f"N{number}": value for number, value in enumerate(values)})
    parts = st.one_of(st.sampled_from(values), st.text(alphabet='ab"\\ é\ud83d', max_size=5))
    pieces = data.draw(st.lists(parts, max_size=8))
    stream = StreamRedactor(redactor)
    live = "".join([*(stream.feed(piece) for piece in pieces), stream.feed("", last=True)])
    for shown in (live, redactor.text("".join(pieces))):
        assert not any(form in shown for value in values for form in forms_of(value))


def test_redaction_does_not_depend_on_where_a_text_is_split() -> None:
    redactor = Redactor({"SHORT": "hunter2", "LONG": "hunter2-zebra", "OTHER": "zebra-4711"})
    text = "It is hunter2-zebra-4711, hunter2, or zebra-4711 hunter2-z."
    whole = redactor.text(text)
    assert whole == "It is [secret LONG], [secret SHORT], or [secret OTHER] [secret SHORT]-z."
    for at in range(len(text)):
        stream = StreamRedactor(redactor)
        assert stream.feed(text[:at]) + stream.feed(text[at:]) + stream.feed("", last=True) == whole


def test_a_value_without_secrets_is_returned_unchanged() -> None:
    redactor = Redactor({"A": "hunter2"})
    value = {"a": [1, 2.5, None, True, {"b": "c"}], "d": ("e",)}
    assert redactor.value(value) is value
    assert redactor.value({"a": [{"hunter2": "x"}]}) == {"a": [{"[secret A]": "x"}]}


@pytest.mark.parametrize("quote", ["", "'", '"', "'\""])
def test_a_secret_is_found_as_python_shows_it(quote: str) -> None:
    secret = f"back\\slash{quote}\nline, {quote}geheim ö"
    redactor = Redactor({"A": secret})
    error = KeyError(secret)
    for shown in (
        *(str(error), repr(error), repr({"a": [secret], secret: f"it's {secret}"}), ascii([secret])),
        *(repr(secret.encode()), repr([f'so-called "{secret}"'.encode()]), urlencode({"a": secret})),
    ):
        clean = redactor.text(shown)
        assert "[secret A]" in clean
        assert "line" not in clean
        assert "geheim" not in clean
    assert "correct" not in Redactor({"A": "correct horse"}).text(urlencode({"a": "correct horse"}))


async def test_a_progress_line_is_truncated_after_redaction() -> None:
    shown: list[str] = []
    text = ToolText(Redactor({"A": "hunter2-zebra"}), lambda kind, offset, piece: shown.append(piece))
    text.progress("x" * 1_995 + "hunter2-zebra")
    assert shown == ["x" * 1_995 + "[secr"]


def test_the_beginning_of_a_secret_at_the_end_of_truncated_text_is_redacted() -> None:
    redactor = Redactor({"A": "hunter2-zebra"})
    assert redactor.text("It is hunter2-z", cut=True) == "It is [secret A]"
    assert redactor.text("It is hun", cut=True) == "It is hun"
    assert redactor.text("hunter2-zebra and hunt", cut=True) == "[secret A] and [secret A]"
    assert redactor.text("It is hunter2-z") == "It is hunter2-z"


def test_no_tool_shows_half_a_secret_where_it_truncates() -> None:
    secret = "hunter2-" + "Zebra" * 40
    clean = Redactor({"A": secret}).text
    for ahead in range(EXCERPT - len(secret), EXCERPT + 1, 7):
        line = f"{'x' * ahead}{secret}{'y' * 3000}"
        (found,) = matching_lines(compile_regex("x"), line.encode(), 1, lambda: False, clean)
        assert "hunter" not in found.text
    (found,) = matching_lines(
        compile_regex("y"), f"{secret * 20}{'y' * 900}".encode(), 1, lambda: False, clean
    )
    assert "y" in found.text
    assert "Zebra" not in found.text


def test_fields_with_a_fixed_set_of_values_are_not_redacted() -> None:
    message = Message(MessageId("message_1"), "user", (TextPart("the user"),), "2026-01-01T00:00:00Z")
    event = NewEvent(InputMessageData(message), EventContext(), 0)
    data = redact_event(event, Redactor({"ROLE": "user"})).data
    assert isinstance(data, InputMessageData)
    assert (data.message.role, data.message.content) == ("user", (TextPart("the [secret ROLE]"),))


@pytest.mark.parametrize("value", [12345678, 12345678.0, [12345678], {"pin": 12345678}])
def test_a_value_that_is_a_number_is_redacted(value: JsonValue) -> None:
    data = OutputAcceptedData(TurnId("turn_1"), MessageId("message_1"), value)
    clean = redact_event(NewEvent(data, EventContext(), 0), Redactor({"PIN": "12345678"}))
    assert "12345678" not in str(clean.data)
    assert "[secret PIN]" in str(clean.data)
