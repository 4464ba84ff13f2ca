"""The questions of agents (`ask_user`): shown, and answered at a terminal or in a pipe."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from perdure.cli.choices import choose, label_of, option_lines
from perdure.cli.texts import short
from perdure.domain.visible import exact

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from perdure.cli.terminal import Screen
    from perdure.domain.questions import Answers, AskedQuestion


def question_lines(questions: Iterable[AskedQuestion]) -> list[str]:
    """Say what is asked, with the options of choices."""
    lines: list[str] = []
    for question in questions:
        lines.append(f"? {title_of(question)}")
        lines += option_lines(question.options)
    return lines


def title_of(question: AskedQuestion) -> str:
    """Format a question as one line."""
    name = question.secret_name or ""
    secret = f" (a secret: it is stored as {exact(name)}, and the model never sees it)" if name else ""
    return f"{short(question.question, 2_000)}{secret}"


def ask_person(questions: Sequence[AskedQuestion], screen: Screen) -> Answers:
    """Ask the person at the terminal each question; None declines one.

    Raises:
        EOFError, KeyboardInterrupt: Ctrl-D, Ctrl-C.
    """
    answers: Answers = {}
    for question in questions:
        screen.line((f"? {title_of(question)}", "yellow"))
        match question.type:
            case "choice":
                answers[question.id] = choose(screen, question.options)
            case "secret":
                answers[question.id] = _hidden("  Enter alone declines: ") or None
            case _:
                answers[question.id] = screen.read_answer("  Enter alone declines: ").strip() or None
    return answers


def _hidden(prompt: str) -> str:
    import getpass

    return getpass.getpass(prompt)


def read_answers(questions: Sequence[AskedQuestion], screen: Screen) -> Answers:
    """Ask on `screen`, and read a line of standard input for each question.

    An empty line, and the end of the input, declines a question. Choices take a number or a label.
    """
    answers: Answers = {}
    for question in questions:
        for line in question_lines([question]):
            screen.line(line)
        given: str | None = sys.stdin.readline().strip()
        if given and question.type == "choice":
            # What fits no option is sent as it is: the server says what it takes.
            given = label_of(given, question.options) or given
        answers[question.id] = given or None
    return answers
