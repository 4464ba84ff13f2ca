"""A person at a terminal chooses an option: with keys, or by its number."""

from __future__ import annotations

import io
import os
import pty
import sys
import termios
from collections.abc import Iterator

import pytest
from rich.console import Console

from perdure.cli.choices import choose, label_of
from perdure.cli.terminal import Screen
from perdure.domain.questions import AskedOption

OPTIONS = (AskedOption("red"), AskedOption("green", "like grass"), AskedOption("blue", recommended=True))
UP, DOWN, ENTER, ESCAPE = "\x1b[A", "\x1b[B", "\r", "\x1b"


class Person(io.StringIO):
    """A screen, and a person who presses the next key whenever the menu is drawn."""

    def __init__(self, keyboard: int, keys: tuple[str, ...]) -> None:
        super().__init__()
        self._keyboard = keyboard
        self._keys = list(keys)

    def write(self, text: str) -> int:
        if "Esc declines" in text and self._keys:
            os.write(self._keyboard, self._keys.pop(0).encode())
        return super().write(text)


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The other end of the terminal that is this program's standard input."""
    person, program = pty.openpty()
    with os.fdopen(person, "wb"), os.fdopen(program, "r") as typed:
        monkeypatch.setattr(sys, "stdin", typed)
        monkeypatch.setenv("TERM", "xterm")
        yield person


def chosen(keyboard: int, *keys: str, options: tuple[AskedOption, ...] = OPTIONS) -> str | None:
    shown = Person(keyboard, keys)
    console = Console(file=shown, force_terminal=True, width=80, color_system=None)
    before = termios.tcgetattr(keyboard)
    try:
        return choose(Screen(console=console), options)
    finally:
        assert termios.tcgetattr(keyboard) == before, "the terminal is as it was"


@pytest.mark.parametrize(
    ("keys", "label"),
    [
        ((ENTER,), "blue"),
        ((UP, ENTER), "green"),
        (("k", "k", ENTER), "red"),
        ((DOWN, ENTER), None),
        ((DOWN, "j", ENTER), "red"),
        (("\t", "\x1bOB", ENTER), "red"),
        (("2", ENTER), "green"),
        (("4", "0", "x", "é", ENTER), "blue"),
        ((ESCAPE,), None),
        ((f"{UP}{ENTER}",), "green"),
    ],
)
def test_keys_move_to_an_option_and_choose_it(
    keyboard: int, keys: tuple[str, ...], label: str | None
) -> None:
    # A key that is not known draws nothing: it is pressed together with the next one.
    pressed = ("".join(keys),) if "x" in keys else keys
    assert chosen(keyboard, *pressed) == label


def test_without_a_recommendation_the_first_option_is_marked(keyboard: int) -> None:
    assert chosen(keyboard, ENTER, options=OPTIONS[:2]) == "red"


@pytest.mark.parametrize(("key", "error"), [("\x04", EOFError), ("\x03", KeyboardInterrupt)])
def test_ctrl_d_and_ctrl_c_leave_the_choice(keyboard: int, key: str, error: type[BaseException]) -> None:
    # Ctrl-C is a byte here: this terminal belongs to no process that it could interrupt.
    settings = termios.tcgetattr(keyboard)
    settings[3] &= ~termios.ISIG
    termios.tcsetattr(keyboard, termios.TCSANOW, settings)
    with pytest.raises(error):
        chosen(keyboard, key)


@pytest.mark.parametrize(
    ("given", "label", "told"),
    [("2\n", "green", False), ("blue\n", "blue", False), ("\n", None, False), ("9\nnone\n1\n", "red", True)],
)
def test_without_single_keys_a_number_or_a_label_is_taken(
    given: str,
    label: str | None,
    told: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(given))
    assert choose(Screen(), OPTIONS) == label
    shown = capsys.readouterr().out
    assert "  1. red\n  2. green: like grass\n  3. blue (recommended)\n" in shown
    assert ("Enter a number from 1 to 3." in shown) is told


def test_labels_come_before_numbers_and_other_texts_are_none() -> None:
    numbers = (AskedOption("2"), AskedOption("1"))
    assert [label_of(each, numbers) for each in ("1", "2", "3", "0", "-1", "٢", "002", "")] == [
        "1",
        "2",
        *[None] * 6,
    ]
