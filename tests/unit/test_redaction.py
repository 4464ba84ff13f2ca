"""What is blanked does not depend on how a text is cut into pieces, and looking for much takes no longer than looking for little."""

from __future__ import annotations

import time
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.storage import Blanking, Redactor, forms_of
from perdure.engine.live import ToolText

FEW = st.text(alphabet='ab"\\ é\ud83d', min_size=4, max_size=9)
"""Few letters, so that values occur by chance, and overlap."""


@given(st.lists(FEW.filter(lambda text: text.isprintable()), min_size=1, max_size=3), st.data())
def test_no_form_of_a_secret_is_left_however_a_text_comes_in(values: list[str], data: st.DataObject) -> None:
    redactor = Redactor({f"N{number}": value for number, value in enumerate(values)})
    parts = st.one_of(st.sampled_from(values), st.text(alphabet='ab"\\ é\ud83d', max_size=5))
    pieces = data.draw(st.lists(parts, max_size=8))
    stream = Blanking(redactor)
    live = "".join([*(stream.feed(piece) for piece in pieces), stream.feed("", last=True)])
    for shown in (live, redactor.text("".join(pieces))):
        assert not any(form in shown for value in values for form in forms_of(value))


def test_what_is_blanked_is_the_same_cut_anywhere() -> None:
    redactor = Redactor({"SHORT": "hunter2", "LONG": "hunter2-zebra", "OTHER": "zebra-4711"})
    text = "It is hunter2-zebra-4711, hunter2, or zebra-4711 hunter2-z."
    whole = redactor.text(text)
    assert whole == "It is [secret LONG], [secret SHORT], or [secret OTHER] [secret SHORT]-z."
    for at in range(len(text)):
        stream = Blanking(redactor)
        assert stream.feed(text[:at]) + stream.feed(text[at:]) + stream.feed("", last=True) == whole


def test_what_holds_no_secret_stays_the_very_same() -> None:
    redactor = Redactor({"A": "hunter2"})
    value = {"a": [1, 2.5, None, True, {"b": "c"}], "d": ("e",)}
    assert redactor.value(value) is value
    assert redactor.value({"a": [{"hunter2": "x"}]}) == {"a": [{"[secret A]": "x"}]}


def test_a_line_of_progress_is_cut_after_it_is_blanked() -> None:
    shown: list[str] = []
    text = ToolText(Redactor({"A": "hunter2-zebra"}), lambda kind, offset, piece: shown.append(piece))
    text.progress("x" * 1_995 + "hunter2-zebra")
    assert shown == ["x" * 1_995 + "[secr"]


def test_a_hundred_long_secrets_take_no_time_to_look_for() -> None:
    random = Random(1)
    letters = [chr(code) for code in range(33, 127)]
    redactor = Redactor({f"N{number}": "".join(random.choices(letters, k=2_000)) for number in range(100)})
    text = " ".join("".join(random.choices(letters, k=6)) for _ in range(14_300))
    redactor.text(text)
    least = min(_seconds(redactor, text) for _ in range(5))
    assert least < 0.005  # 0.3 ms; a pass for each of the forms takes 13


def _seconds(redactor: Redactor, text: str) -> float:
    began = time.perf_counter()
    assert redactor.text(text) is text
    return time.perf_counter() - began
