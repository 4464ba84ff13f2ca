"""The server's log: its lines, what is left out of them, and the thread that writes them."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator

import pytest

from perdure import logs
from perdure.domain.log_lines import TEXT, JsonLogFormatter, LogFormatter, LogSecrets, fields, secret_values
from perdure.logs import LogWriter, start_log
from perdure.settings import load


def record(message: str, *args: object, **values: str | float | None) -> logging.LogRecord:
    made = logging.LogRecord("perdure.test", logging.WARNING, "", 0, message, args, None)
    made.__dict__.update(fields(**values))
    return made


class Pipe:
    """What a log writes to: it takes nothing until it is opened."""

    def __init__(self, *, is_open: bool = False) -> None:
        self.written = b""
        self.asked = threading.Event()
        self.opened = threading.Event()
        if is_open:
            self.opened.set()

    def write(self, data: bytes) -> int:
        self.asked.set()
        self.opened.wait(30)
        self.written += data[:100]  # as a pipe does, it may take a part only
        return min(len(data), 100)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.opened.set()


def test_a_line_for_people_has_its_fields_and_stays_one_line() -> None:
    line = LogFormatter(TEXT).format(
        record("turn\nfailed", session="session_1", code="x y", status=401, none=None)
    )
    assert line.endswith(r'WARNING perdure.test: turn\nfailed session=session_1 code="x y" status=401')


def test_a_line_for_programs_is_one_ascii_object_with_a_utc_time() -> None:
    try:
        raise ValueError("a\x1b[2J\nb")
    except ValueError as error:
        made = record("é %s", "\u202e", ms=1.5, level="cannot replace the level")
        made.exc_info = (ValueError, error, error.__traceback__)
        made.created = 1_800_000_000.25
    text = JsonLogFormatter().format(made)
    assert text.isascii()
    assert "\n" not in text
    line = json.loads(text)
    assert line.pop("trace").endswith("ValueError: a\x1b[2J\nb")
    assert line == {
        "time": "2027-01-15T08:00:00.250Z",
        "level": "warning",
        "logger": "perdure.test",
        "message": "é \u202e",
        "ms": 1.5,
    }


@pytest.mark.parametrize("as_json", [False, True])
def test_secrets_are_left_out_of_messages_fields_and_tracebacks(as_json: bool) -> None:
    known = secret_values({"OPENAI_API_KEY": "sesame-sesame", "HOME": "/home/someone", "X_TOKEN": "short"})
    assert known == ["sesame-sesame", "short"]
    secrets = LogSecrets(known)
    formatter = JsonLogFormatter(secrets) if as_json else LogFormatter(TEXT, secrets)
    made = record(
        "pdr_pat_abcdefgh Bearer abcdefghijk sk-abcdefghijk postgresql://me:hunter22@there/db sesame-sesame",
        code="sesame-sesame",
    )
    made.trace = "ValueError: key pdr_pat_abcdefgh"
    line = formatter.format(made)
    for secret in ("abcdefgh", "hunter22", "sesame"):
        assert secret not in line
    assert "pdr_pat_..." in line
    assert "postgresql://me:...@there/db" in line
    assert "/home/someone" in formatter.format(record("/home/someone is a task-abcdefghijk, short"))


def test_a_log_that_nobody_reads_stops_nobody_and_says_later_how_much_was_lost(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MOST_BYTES", 1_000)
    writer = LogWriter(pipe.write)
    writer.setFormatter(LogFormatter())
    report = logging.getLogger("perdure")
    report.addHandler(writer)
    try:
        writer.handle(record("%s", "first"))
        assert pipe.asked.wait(30)  # the thread is stuck in its write
        for number in range(200):
            writer.handle(record("%s", f"line {number:03}"))  # returns at once: else this test would hang
        assert 0 < writer.dropped < 200
        pipe.opened.set()
        lost = writer.dropped
        writer.flush()
        while b"were dropped" not in pipe.written:
            writer.flush()
    finally:
        report.removeHandler(writer)
    lines = pipe.written.decode().splitlines()
    kept = [f"line {number:03}" for number in range(200 - lost)]
    assert lines[: len(kept) + 1] == ["first", *kept]
    assert f"{lost} lines of this log were dropped" in lines[len(kept) + 1]


def test_what_is_left_is_written_before_the_process_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Pipe(is_open=True)
    monkeypatch.setattr(logs, "_to_stderr", slow.write)
    root = logging.getLogger()
    before, root.handlers = root.handlers, []
    level = root.level
    try:
        writer = start_log(load({"PERDURE_LOG_FORMAT": "json", "PERDURE_LOG_LEVEL": "info"}))
        for number in range(500):
            logging.getLogger("perdure.test").info("line %d", number)
        logs.flush_log()
        assert len(slow.written.splitlines()) == 500
        assert json.loads(slow.written.splitlines()[-1])["message"] == "line 499"
        assert writer.dropped == 0
    finally:
        root.handlers = before
        root.setLevel(level)


def test_a_closed_standard_error_is_no_failure() -> None:
    def closed(_data: bytes) -> int:
        raise BrokenPipeError

    writer = LogWriter(closed)
    writer.handle(record("lost"))
    writer.flush()
    writer.handle(record("lost, too"))
    writer.flush()
    assert writer.dropped == 0
