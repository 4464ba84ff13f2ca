"""No text from a client or a model takes more than linear time: regular expressions and string algorithms."""

from __future__ import annotations

import ast
import re
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from perdure.api.kernel import decoding
from perdure.domain import front_matter, redaction, repair, sse
from perdure.domain.agent_files import read_agent_file
from perdure.domain.errors import PerdureError
from perdure.llm import failures, simulated
from perdure.llm.parameters import refused_parameters

SOURCE = Path(__file__).parents[2] / "src" / "perdure"

LENGTH = 20_000
"""Characters of an attack. A quadratic search takes 0.1 to 0.5 seconds on them, a linear one under 0.01."""

BOUNDED = {
    r"\s*INSERT\s+INTO\s+(\w+)\s*\(([^)]*)\)\s*(ON CONFLICT .*)?": "our own SQL",
    r"'(?:[^']|'')*'|\?": "our own SQL",
    r"--[^\n]*": "our own SQL",
    r";\s*(?:\n|$)": "our own SQL",
    r'\s*(?:W/)?"([\x21\x23-\x7e]*)"\s*(?:,|$)': "matched at one place only",
    r"[a-z_]+:(\s|$)": "matched at one place only",
    r"(?s)<(script|style)\b.*?</\1>|<[^<>]*>": "of MARKUP characters",
    r"\W*(ping|pong|keep.?alive|heart.?beat|processing|waiting|connected|open|start|ok|noop|undefined)\W*": (
        "of a text of less than 40 characters"
    ),
    r"([a-z_]+)\[([^\[\]]+)\]": "matched at one place only",
    r"length|truncat|max.*token|token.*(limit|max)|(limit|max).*reached": "of 100 characters",
    (
        r"([+-]?\s*\d{1,9}|next|last|this|an?)?\s*"
        r"\b(sec(?:ond)?|min(?:ute)?|hour|day|week|fortnight|month|year)s?\b(\s+ago\b)?"
    ): "of 200 characters",
    r"\s*(?:(?<=\d)Z|\bUTC|\bGMT|(?<=\d)\s*([+-])(\d\d):?(\d\d))$": "of 200 characters",
    r"(^|/)(o\d|gpt-([5-9]|\d\d)|codex|computer-use)(?!.*chat)": "of a model's name",
}
"""Regular expressions that are not linear: why that is harmless."""

ATOMS = [
    " ", "\n", "\t", "a", "A", "0", "1.", "-", "_", ".", ",", ", ", '"', "'", "\\", "\\\\", "<", ">", "<a",
    "<script", "[", "]", "{", "}", "{{", "(", ")", "/", "//", "|", ":", ";", "=", "`", "```", "*", "#", "$",
    "@", "é", "\x00", "\u2028", "a ", " a", "a.", "a-", "a,", "a:", "/v1", "/o1", "/gpt-5", "charset",
    "charset=", "<meta", "<?xml", "bearer ", "sk-", "sk-a", "-----BEGIN ", "[TODO", "claude-", "-copy-1",
    "data:", "token count ", "input token count ", "\\u0000", '"\\', ",-1", ":1e", "name: ", "a_b:",
    "declare -a ", "{a,", "[[", " - at `$",
]  # fmt: skip


def attacks(length: int) -> Iterator[str]:
    for atom in ATOMS:
        many = atom * (length // len(atom))
        yield many
        yield many + "!"
    for spaces in (" ", "\n"):
        yield "a" + spaces * length + "b"
        yield "," + spaces * length + "x"
        yield "charset" + spaces * length + "x"


def regexes() -> Iterator[tuple[str, Any]]:
    """Every regular expression in the source, with what marks it."""
    for path in sorted(SOURCE.rglob("*.py")):
        source = path.read_text("utf-8")
        for node in ast.walk(ast.parse(source)) if "import re\n" in source else ():
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "re"
                and node.args
                and isinstance(node.args[0], ast.Constant)
                and node.func.attr != "escape"
            ):
                yield f"{path.relative_to(SOURCE)}:{node.lineno}", node.args[0].value


PATTERNS = dict(regexes())


def spent(work: Callable[[str], object], text: str, quick: float) -> float:
    """Processor seconds; the better of two, because the first may include other work."""
    best = float("inf")
    for _ in range(2):
        began = time.process_time()
        work(text)
        best = min(best, time.process_time() - began)
        if best < quick:
            break
    return best


def search_in_quadratic_time(text: str) -> object:
    return re.search(r" *x", text)


@cache
def quick() -> float:
    """Seconds of processor time: a third of what a quadratic search takes on this machine."""
    return spent(search_in_quadratic_time, " " * LENGTH, 0) / 3


def first_slow(work: Callable[[str], object], quick: float) -> str | None:
    """The beginning of the first attack that takes too long, or None.

    On a quarter of the text, quadratic work takes a sixteenth of the time. What is quicker than that there
    need not be tried on the whole.
    """
    for short, text in zip(attacks(LENGTH // 4), attacks(LENGTH), strict=True):
        if spent(work, short, quick / 16) >= quick / 16 and spent(work, text, quick) >= quick:
            return text[:20]
    return None


def test_every_regular_expression_of_the_source_is_found() -> None:
    assert len(PATTERNS) > 40


@pytest.mark.parametrize("place", PATTERNS)
def test_no_regular_expression_takes_more_than_linear_time(place: str) -> None:
    pattern = PATTERNS[place]
    if pattern in BOUNDED:
        return
    compiled: Any = re.compile(pattern)

    def replace_all(text: str) -> object:
        subject: Any = text.encode("utf-8", "replace") if isinstance(pattern, bytes) else text
        return compiled.sub(subject[:0], subject)

    assert first_slow(replace_all, quick()) is None


def _refusing(work: Callable[[str], object]) -> Callable[[str], object]:
    def run(text: str) -> object:
        try:
            return work(text)
        except (PerdureError, ValueError):
            return None

    return run


SECRETS = {f"key{number}": f"secret-{number}-{'x' * number}" for number in range(200)}
REDACTOR = redaction.Redactor(SECRETS)

ALGORITHMS: dict[str, Callable[[str], object]] = {
    "repair_arguments": repair.repair_arguments,
    "repair_name": lambda text: repair.repair_name(text, {"read_file", "write_file"}),
    "fit_arguments": lambda text: repair.fit_arguments(
        {"a": text, "b": text}, {"properties": {"a": {"type": "integer"}, "b": {"type": "array"}}}
    ),
    "words of the simulated model": simulated._words_of,
    "a refusal's text": lambda text: failures.refusal(400, {}, text.encode("utf-8", "replace"), ["sk-1"]),
    "a refused parameter": lambda text: refused_parameters(f"unsupported {text}", ["stream", "thinking"]),
    "a web page as an error": lambda text: failures.refusal(502, {}, f"<html>{text}".encode(), []),
    "an agent's file": _refusing(read_agent_file),
    "front matter": _refusing(front_matter.split_front_matter),
    "yaml": _refusing(front_matter.read_yaml),
    "json": _refusing(lambda text: decoding.decode(decoding._ANYTHING, text.encode("utf-8", "replace"))),
    "redaction": REDACTOR.text,
    "redaction of a cut text": lambda text: REDACTOR.text(text, cut=True),
    "events of a stream": lambda text: list(sse.SseParser().feed(text.encode("utf-8", "replace"))),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_no_algorithm_over_texts_takes_more_than_linear_time(name: str) -> None:
    assert first_slow(ALGORITHMS[name], 2 * quick()) is None


def test_quadratic_work_is_found() -> None:
    assert first_slow(search_in_quadratic_time, quick()) is not None
