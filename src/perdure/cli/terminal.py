"""The one way in which commands write: no text of others can control the terminal.

Texts of models, tools, vendors and clients are escaped here, whatever they are part of: answers, titles,
ids, errors, JSON, tracebacks. Only this program's own styles are sent as control sequences, and only to a
terminal.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from perdure.domain.log_lines import LogFormatter
from perdure.domain.visible import visible, visible_json, visible_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

Part = str | tuple[str, str]
"""A text, or a text with its style."""


T = TypeVar("T")


class Screen:
    """Standard output, or standard error: in colour on a terminal, plain lines in a pipe or a file.

    Args:
        stderr: write to standard error.
        console: the terminal to write to, instead of the standard streams.
    """

    def __init__(self, *, stderr: bool = False, console: Console | None = None) -> None:
        self._stream = sys.stderr if stderr else sys.stdout
        if console is None and self._stream.isatty():
            from rich.console import Console as RichConsole

            console = RichConsole(stderr=stderr, highlight=False, soft_wrap=True)
        self._console = console

    @property
    def is_terminal(self) -> bool:
        """Whether a person watches."""
        return self._console is not None and self._console.is_terminal

    @property
    def has_colours(self) -> bool:
        """Whether colours are shown; not if NO_COLOR is set."""
        return self.is_terminal and self._console is not None and not self._console.no_color

    @property
    def width(self) -> int | None:
        """The terminal's columns; None in a pipe."""
        return self._console.width if self.is_terminal and self._console is not None else None

    def line(self, *parts: Part, end: str = "\n") -> None:
        """Write a text, in parts with styles."""
        cleaned = [
            (visible(part), "") if isinstance(part, str) else (visible(part[0]), part[1]) for part in parts
        ]
        if self._console is None:
            self._stream.write("".join(text for text, _ in cleaned) + end)
            self._stream.flush()
            return
        from rich.text import Text

        self._console.print(Text.assemble(*cleaned), end=end)
        self._console.file.flush()

    def content(self, content: bytes) -> None:
        """Write a file's content: as it is in a pipe, as text on a terminal."""
        if self._console is None:
            self._stream.buffer.write(content)
            self._stream.buffer.flush()
        else:
            self.line(content.decode(errors="replace"), end="")

    def json(self, value: object) -> None:
        """Write a value as one line of JSON. Characters that a terminal must not get are escaped in it."""
        from msgspec import json  # not above: complaints about missing packages need no package

        self._stream.write(visible_json(json.encode(value).decode()) + "\n")
        self._stream.flush()

    def listing(
        self,
        items: Iterable[T],
        columns: Sequence[str],
        row_of: Callable[[T], Sequence[Part]],
        *,
        as_json: bool,
        cut: Sequence[str] = (),
    ) -> None:
        """Write items as a table with a row for each, or as a line of JSON for each."""
        if as_json:
            for item in items:
                self.json(item)
        else:
            self.table(columns, map(row_of, items), cut=cut)

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[Part]], *, cut: Sequence[str] = ()
    ) -> None:
        """Write a table: in columns on a terminal, else one line for each row, separated by tabs.

        On a terminal without room for the columns, each cell has a line.

        Args:
            cut: columns whose texts are cut, so that each row of a terminal is one line. Without room for
                something of each, the last of them are left out. Without any, the last two columns wrap.
        """
        if self._console is None:
            for row in (columns, *rows):
                texts = (cell if isinstance(cell, str) else cell[0] for cell in row)
                self.line("\t".join(map(visible_line, texts)))
            return
        from rich.table import Table
        from rich.text import Text

        parts = [[(cell, "") if isinstance(cell, str) else cell for cell in row] for row in rows]
        cells = [[(visible_line(text), style) for text, style in row] for row in parts]
        widths = _fitting(columns, cells, self._console.width, cut)
        if widths is None:
            self._records(columns, cells)
            return
        table = Table(box=None, pad_edge=False, header_style="dim")
        for number, name in enumerate(columns):
            if not cut:
                table.add_column(name, no_wrap=number < len(columns) - 2, overflow="fold")
            elif number in widths:
                table.add_column(name, no_wrap=True, overflow="ellipsis", width=widths[number])
        for row in cells:
            shown = [cell for number, cell in enumerate(row) if not cut or number in widths]
            table.add_row(*(Text(text, style=style) for text, style in shown))
        self._console.print(table)

    def _records(self, columns: Sequence[str], rows: Sequence[Sequence[tuple[str, str]]]) -> None:
        """Write a line for each cell, and an empty one between rows."""
        longest = max(map(len, columns))
        for number, row in enumerate(rows):
            if number:
                self.line()
            for name, cell in zip(columns, row, strict=True):
                if cell[0]:
                    self.line((f"{name:<{longest}}  ", "dim"), cell)

    def status(self, label: str) -> Status | None:
        """Return a spinner with this label; None without a terminal."""
        if self._console is None or not self.is_terminal:
            return None
        from rich.text import Text

        return self._console.status(Text(visible_line(label), style="dim"), spinner="dots")

    @contextmanager
    def live(self) -> Iterator[Callable[[Sequence[Sequence[Part]]], None] | None]:
        """Give a function that draws lines in place of those before; None without a terminal.

        The lines are removed at the end.
        """
        if self._console is None or not self.is_terminal:
            yield None
            return
        from rich.live import Live
        from rich.text import Text

        def draw(lines: Sequence[Sequence[Part]]) -> None:
            cells = [
                (part, "") if isinstance(part, str) else part for line in lines for part in (*line, "\n")
            ]
            live.update(Text.assemble(*((visible(text), style) for text, style in cells)), refresh=True)

        with Live(console=self._console, transient=True, auto_refresh=False) as live:
            yield draw

    def read_answer(self, question: str) -> str:
        """Read a line from the person at the terminal.

        Raises:
            EOFError, KeyboardInterrupt: Ctrl-D, Ctrl-C.
        """
        text = visible(question)
        # The marks tell line editing that the colour takes no room.
        return input(f"\001\033[1;36m\002{text}\001\033[0m\002" if self.has_colours else text)


_GAP, _LEAST, _WRAPPED = 2, 10, 8
"""Columns of a terminal between two of a table, and that are left of one that is cut, or that wraps."""


def _fitting(
    columns: Sequence[str], rows: Sequence[Sequence[tuple[str, str]]], width: int, cut: Sequence[str]
) -> dict[int, int] | None:
    """Return the widths of a table's columns in a terminal of this width, without those that do not fit.

    None: there is no room for what is not cut.
    """
    from rich.cells import cell_len

    widths = {
        number: max([cell_len(name), *(cell_len(row[number][0]) for row in rows)])
        for number, name in enumerate(columns)
    }
    if not cut:
        wrapped = range(max(len(columns) - 2, 0), len(columns))
        least = (min(size, _WRAPPED) if number in wrapped else size for number, size in widths.items())
        return widths if sum(least) + _GAP * (len(columns) - 1) <= width or not rows else None
    flexible = [columns.index(name) for name in cut]
    while (excess := sum(widths.values()) + _GAP * (len(widths) - 1) - width) > 0 and flexible:
        widest = max(flexible, key=lambda number: widths[number])
        if widths[widest] > _LEAST:
            others = sorted(widths[number] for number in flexible)
            down_to = max([_LEAST, *(each for each in others if each < widths[widest])])
            same = sum(widths[number] == widths[widest] for number in flexible)
            widths[widest] -= max(1, min(widths[widest] - down_to, -(-excess // same)))
        elif len(flexible) > 1:
            del widths[flexible.pop()]
        else:
            break
    return widths if excess <= 0 or not rows else None


def write_any_text() -> None:
    """Have the standard streams replace characters that their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def complain(message: str) -> None:
    """Write an error to standard error."""
    Screen(stderr=True).line(f"error: {message}")


def write_traceback(error: BaseException) -> None:
    """Write an error's traceback to standard error."""
    Screen(stderr=True).line("".join(traceback.format_exception(error)), end="")


def log_to_terminal() -> None:
    """Write this process's warnings to standard error, as lines that cannot control the terminal."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
