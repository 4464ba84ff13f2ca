"""Everyday commands of the shell: what it has instead of bashkit's own, and what those must go on doing."""

from __future__ import annotations

import pytest
from bashkit import Bash

from perdure.sandbox.dates import moment
from perdure.sandbox.listing import human
from perdure.sandbox.read_loops import rewrite_read_loops
from perdure.sandbox.shell import CommandResult, ShellJob, run_shell


async def bash(command: str, seconds: float = 20.0) -> CommandResult:
    def nothing(*_: object) -> None: ...

    return (await run_shell(ShellJob(command, {}, (), None, None, seconds), nothing)).result


PRINTS = [
    ("head -c 2000000 /dev/zero | wc -c", "2000000"),
    ("head -c 2M /dev/urandom | wc -c", "2097152"),
    ("cat /dev/zero | head -c 10 | wc -c", "10"),
    ("tr -dc a-z < /dev/urandom | head -c 8 | wc -c", "8"),
    ("dd if=/dev/zero bs=1M count=3 2>/dev/null | wc -c", "3145728"),
    ("seq 1 200000 | tail -1", "200000"),
    ("seq 5 -2 1; seq -s, 1 3; seq 5 1; seq -w 9 10", "5\n3\n1\n1,2,3\n09\n10"),
    ("yes | head -200000 | wc -l", "200000"),
    ("yes a b | head -1; echo ${PIPESTATUS[@]}", "a b\n141 0"),
    ("seq 3 > f; head -n -1 f; head -1 f; head -qn1 f f; head -v -n1 f", "1\n2\n1\n1\n1\n==> f <==\n1"),
    ("printf 'a\\nb' | head -5; printf abc | head -c -1", "a\nbab"),
    ("echo x > a; cat a - <<< y; cat -n a | tr -s ' \\t' ' '", "x\ny\n 1 x"),
    ("echo x > a; mkdir d; cp -t d a; mv -t d a; ls d", "a"),
    ("echo x > a; mkdir d; cp --target-directory=d a && cp -rt d d/a && cat d/a", "x"),
    ("touch a b; mkdir d; ls a b | xargs cp -t d; ls d", "a\nb"),
    ("touch a b; mkdir d; mv a b d/; ls d; cp -rv d e; mv -v e f", "a\nb\n'd' -> 'e'\nrenamed 'e' -> 'f'"),
    ("echo x > a; echo y > b; mv -n a b; cp -n a b; cat b", "y"),
    ("echo x > '-a b'; cp -- '-a b' c; cat c", "x"),
    ("echo xx > b; echo x > a; ls -S; ls -Sr; ls -r", "b\na\na\nb\nb\na"),
    ("touch -d 2020-01-01 a; touch -d 2021-01-01 b; ls -t; ls -tr; ls --reverse", "b\na\na\nb\nb\na"),
    ("touch a10 a2 c.b b.c; ls -v a*; ls -X *.*; ls -1rS | wc -l", "a2\na10\nc.b\nb.c\n4"),
    ("head -c 5000 /dev/zero > a; ls -lh a | awk '{print $5, $NF}'", "4.9K a"),
    ("mkdir d; touch d/x .h; ls -p; ls -rA; ls -rd d", "d/\nd\n.h\nd"),
    ("date -u -d '2024-02-29 +1 day' +%F", "2024-03-01"),
    ("date -u --date='2024-03-01 1 day ago' +%F", "2024-02-29"),
    ("TZ=America/New_York date -d '1 Mar 2024 12:00' +%s; date -u -d @0 +%F", "1709312400\n1970-01-01"),
    ("d=2024-01-31; date -ud \"$d + 1 month\" '+%F %T'", "2024-03-02 00:00:00"),
    ("mapfile -t lines < <(seq 50000); n=0; for l in \"${lines[@]}\"; do n=$((n+1)); done; echo $n", "50000"),
    ("cp() { echo mine; }; cp a b; command -v seq", "mine\n/usr/bin/seq"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "printed"), PRINTS, ids=[command[:40] for command, _ in PRINTS])
async def test_an_everyday_command_prints_what_it_prints_elsewhere(command: str, printed: str) -> None:
    result = await bash(command)
    assert result.stdout.strip() == printed, result
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("cat /dev/zero", "/dev/zero has no end"),
        ("cat /dev/urandom", "/dev/urandom has no end"),
        ("cat /dev/zero > big", "10485760 byte limit"),
        ("yes > big", "10485760 byte limit"),
        ("yes", "yes has no end"),
        ("seq 9000000", "ask for a shorter series"),
        ("head -c 50M /dev/zero > big", "byte limit"),
        ("cat nope", "cat: nope: No such file or directory"),
        ("head nope", "head: cannot open 'nope' for reading: No such file or directory"),
        ("head -n x /dev/zero", "invalid number"),
        ("touch a; cp -t nope a", "target 'nope' is not a directory"),
        ("cp", "missing file operand"),
        ("touch a; mv a", "missing destination"),
        ("ls -S nope", "cannot access 'nope'"),
        ("date -d 'garbage in'", "invalid date 'garbage in'"),
        ("seq 1 0 5", "Zero increment"),
    ],
)
async def test_what_a_command_cannot_do_ends_with_a_message_and_a_code(command: str, said: str) -> None:
    result = await bash(command)
    assert result.exit_code != 0
    assert said in result.stderr


async def test_a_long_loop_over_read_is_told_a_faster_way() -> None:
    result = await bash("seq 60000 > f; while read -r l; do echo $l | cat; done < f | wc -l", 5.0)
    assert result.exit_code != 0
    assert "use `mapfile -t lines < FILE`" in result.stderr


LINES = "seq 30000 | sed 's/.*/ line & of a file  /' > f; printf tail >> f; n=0; "
LOOPS = [
    ("while read -r l; do n=$((n+1)); done < f; echo $n \"$l\"", "30000 tail"),
    ("while IFS= read -r l; do\n n=$((n + ${#l}))\ndone < f\necho $n", "678894"),
    ("g=f; while read -r l; do n=$((n + ${#l})); done < \"$g\"; echo $n; unset l; echo ${#l}", "588894\n0"),
    ("while read -r l; do [[ $l == *77* ]] && echo \"$l\"; done < f | wc -l", "840"),
    ("while read -r l; do if [ \"$l\" = 'line 9 of a file' ]; then break; fi; done < f; echo \"$l\"",
     "line 9 of a file"),
    ("if true; then while read -r l; do continue; done < 'f' && echo ok; fi; declare -p | grep -c lines_of",
     "ok\n0"),
]  # fmt: skip


@pytest.mark.parametrize(("loop", "printed"), LOOPS, ids=range(len(LOOPS)))
async def test_a_loop_over_read_ends_the_same_for_a_long_file_as_for_a_short_one(
    loop: str, printed: str
) -> None:
    result = await bash(LINES + loop, 20.0)
    assert result.stdout.strip() == printed, result


@pytest.mark.parametrize(
    "script",
    [
        "echo 'while read -r l; do n=1; done < f'",
        'echo "; while read -r l; do n=1; done < f"',
        "# while read -r l; do n=1; done < f",
        "cat << E\nwhile read -r l; do n=1; done < f\nE",
        "while read -r l; do cat; done < f",
        "while read -r l; do $x; done < f",
        'while read -r l; do eval "$l"; done < f',
        "while read -r l; do for i in 1; do n=$i; done; done < f",
        "while read l; do n=1; done < f",
        "while read -r a b; do n=1; done < f",
        "while read -r l; do n=1; done < $(ls)",
        "f() { cat; }; while read -r l; do f; done < f",
    ],
)
def test_a_loop_over_read_that_may_mean_something_else_stays_as_it_is(script: str) -> None:
    assert rewrite_read_loops(script, Bash().analyze) == script


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("2024-02-28 2 days", "2024-03-01"), ("2024-02-28 next day", "2024-02-29"),
        ("+1 year 2024-03-01", "2025-03-01"), ("2024-02-29 1 year", "2025-03-01"),
        ("2024-03-15 last month", "2024-02-15"), ("2024-03-15 -2 weeks 1 day ago", "2024-02-29"),
        ("March 1, 2024", "2024-03-01"), ("03/01/2024", "2024-03-01"), ("20240301", "2024-03-01"),
        ("2024-03-01T23:30:00-01:00", "2024-03-02"), ("2024-03-01 23:30 -0100", "2024-03-02"),
        ("2024-03-01 UTC", "2024-03-01"), ("Fri, 01 Mar 2024 10:00:00 GMT", "2024-03-01"),
        ("tomorrow", "2024-05-06"), ("yesterday 12:00", "2024-05-04"), ("now + 36 hours", "2024-05-07"),
        ("a week ago", "2024-04-28"), ("12:00", "2024-05-05"), ("next friday", None), ("", None),
        ("99999999 years", None), ("x" * 10_000, None), ("2024-13-01", None), ("day after", None),
    ],
)  # fmt: skip
def test_dates_are_read_as_people_give_them(text: str, iso: str | None) -> None:
    from datetime import UTC, datetime

    seconds = moment(text, None, datetime(2024, 5, 5, 18, tzinfo=UTC))
    assert (None if seconds is None else datetime.fromtimestamp(seconds, UTC).date().isoformat()) == iso


def test_sizes_for_people() -> None:
    sizes = (0, 1023, 1024, 5000, 10240, 1_048_575, 1_048_576, 10**7)
    assert [human(size) for size in sizes] == ["0", "1023", "1.0K", "4.9K", "10K", "1.0M", "1.0M", "9.6M"]
