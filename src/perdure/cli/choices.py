"""Let a person at the terminal choose an option: with the arrow keys, or by its number."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from perdure.domain.visible import exact

if TYPE_CHECKING:
    from perdure.cli.terminal import Part, Screen
    from perdure.domain.questions import AskedOption

DECLINE = "none of these: decline"

_KEYS = {
    b"\x1b[A": "up", b"\x1bOA": "up", b"k": "up", b"\x10": "up",
    b"\x1b[B": "down", b"\x1bOB": "down", b"j": "down", b"\x0e": "down", b"\t": "down",
    b"\r": "enter", b"\n": "enter", b"\x1b": "decline", b"\x04": "end", b"\x03": "interrupt",
}  # fmt: skip
_SPLIT = 0.05
"""Seconds within which the rest of a key comes that sends several characters."""


def choose(screen: Screen, options: Sequence[AskedOption]) -> str | None:
    """Return the label of the option that the person chooses; None if the person declines.

    Raises:
        EOFError, KeyboardInterrupt: Ctrl-D, Ctrl-C.
    """
    with _single_keys(screen) as keys:
        if keys is not None:
            return _by_arrows(screen, options, keys)
    return _by_number(screen, options)


def _by_arrows(screen: Screen, options: Sequence[AskedOption], keys: Iterator[str]) -> str | None:
    at = next((index for index, option in enumerate(options) if option.recommended), 0)
    last = len(options)  # the line that declines
    chosen: int | None = None
    with screen.live() as draw:
        while chosen is None:
            if draw is not None:
                draw([*_lines(options, at), [("  ↑ and ↓ move, Enter chooses, Esc declines", "dim")]])
            match next(keys):
                case "up":
                    at = (at - 1) % (last + 1)
                case "down":
                    at = (at + 1) % (last + 1)
                case "enter":
                    chosen = at
                case "decline":
                    chosen = last
                case "end":
                    raise EOFError
                case "interrupt":
                    raise KeyboardInterrupt
                case digit if digit.isdigit() and 1 <= int(digit) <= last:
                    at = int(digit) - 1
    label = None if chosen == last else options[chosen].label
    screen.line("  ", ("declined", "yellow") if label is None else (exact(label), "bold"))
    return label


def _lines(options: Sequence[AskedOption], at: int) -> list[Sequence[Part]]:
    lines: list[Sequence[Part]] = []
    for index, option in enumerate(options):
        mark, style = ("> ", "bold cyan") if index == at else ("  ", "")
        lines.append([(f"{mark}{index + 1}. {exact(option.label)}", style), (_about(option), "dim")])
    mark, style = ("> ", "bold cyan") if at == len(options) else ("  ", "dim")
    return [*lines, [(f"{mark}{DECLINE}", style)]]


def _about(option: AskedOption) -> str:
    said = f": {exact(option.description)}" if option.description else ""
    return f"{said} (recommended)" if option.recommended else said


def option_lines(options: Sequence[AskedOption]) -> list[str]:
    """List the options with their numbers."""
    return [
        f"  {number}. {exact(option.label)}{_about(option)}" for number, option in enumerate(options, start=1)
    ]


def _by_number(screen: Screen, options: Sequence[AskedOption]) -> str | None:
    for line in option_lines(options):
        screen.line(line)
    while True:
        given = screen.read_answer(f"  1 to {len(options)}, Enter alone declines: ").strip()
        if not given:
            return None
        if (label := label_of(given, options)) is not None:
            return label
        screen.line((f"  Enter a number from 1 to {len(options)}.", "yellow"))


def label_of(given: str, options: Sequence[AskedOption]) -> str | None:
    """Return the label that was entered, or whose number was; None if there is none."""
    labels = [option.label for option in options]
    if given in labels:
        return given
    number = int(given) if given.isascii() and given.isdigit() and len(given) < 3 else 0
    return labels[number - 1] if 1 <= number <= len(labels) else None


@contextmanager
def _single_keys(screen: Screen) -> Iterator[Iterator[str] | None]:
    """Have the terminal send each key at once, and give the keys; None if it cannot."""
    if not (screen.is_terminal and sys.stdin.isatty()) or os.environ.get("TERM", "dumb") == "dumb":
        yield None
        return
    try:
        import termios
        import tty
    except ImportError:  # not on Windows
        yield None
        return
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    try:
        tty.setcbreak(number)
        yield _keys(number)
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def _keys(number: int) -> Iterator[str]:
    """Read keys from a terminal. Unknown ones are left out."""
    waiting = b""
    while True:
        if not waiting:
            waiting = os.read(number, 64)
            if not waiting:
                yield "end"
        # A key with several characters may come in parts. Escape alone is a key, too.
        while waiting in (b"\x1b", b"\x1b[", b"\x1bO") and select.select([number], [], [], _SPLIT)[0]:
            waiting += os.read(number, 64)
        size = next((size for size in (3, 1) if waiting[:size] in _KEYS), 1)
        key, waiting = waiting[:size], waiting[size:]
        if key in _KEYS:
            yield _KEYS[key]
        elif key.isdigit():
            yield key.decode()
