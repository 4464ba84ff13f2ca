"""Jobs of the shell in this process: its state from command to command, and the files that it changes."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from perdure.sandbox import shell as shell_module
from perdure.sandbox.shell import ShellDone, ShellJob, run_shell


class Followed:
    """What a follower sees of a command."""

    def __init__(self) -> None:
        self.pieces: list[tuple[str, str]] = []

    def __call__(self, stream: str, text: str) -> None:
        self.pieces.append((stream, text))

    def text(self, stream: str) -> str:
        return "".join(text for one, text in self.pieces if one == stream)


JOB = ShellJob("", {}, (), None, None, 20.0)


async def run(command: str, job: ShellJob = JOB, show: Followed | None = None) -> ShellDone:
    return await run_shell(replace(job, command=command), show or Followed())


async def test_the_next_command_finds_variables_functions_aliases_and_the_folder() -> None:
    job = replace(JOB, folders=("/docs",))
    first = await run("x='a b'; greet() { echo hi $1; }; alias ll='ls -l'; cd docs", job)
    assert first.result.exit_code == 0
    job = replace(job, state=first.result.state)
    second = await run('echo "$x"; greet you; pwd; alias ll', job)
    assert second.result.stdout.splitlines()[:2] == ["a b", "hi you"]
    assert second.result.stdout.splitlines()[2].endswith("/docs")
    assert "ls -l" in second.result.stdout


@pytest.mark.parametrize(
    "command", ["exec > out", "builtin() { :; }", "x=$(head -c 300000 /dev/zero | tr '\\0' a)"]
)
async def test_a_state_that_cannot_be_read_or_is_too_long_is_not_kept(command: str) -> None:
    assert (await run(command)).result.state is None


async def test_a_command_that_reaches_a_limit_says_which_and_how_to_do_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shell_module, "MAX_ITERATIONS", 1_000)
    show = Followed()
    loop = "echo begun; seq 10 > f; while IFS= read -r line\ndo :; done < f; while :; do :; done"
    done = (await run(loop, show=show)).result
    assert done.problem is not None
    assert done.exit_code != 0
    assert done.stdout == "begun\n"
    assert done.stderr.startswith(f"bash: {done.problem}\n")
    assert shell_module.READ_HINT in done.stderr
    assert show.text("stdout") == "begun\n"
    plain = (await run("while :; do :; done")).result
    assert plain.stderr == f"bash: {plain.problem}\n"


async def test_followers_see_the_beginning_of_a_long_output_and_a_note(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shell_module, "MAX_LIVE", 6)
    show = Followed()
    done = await run("echo 123; echo 45678 >&2", show=show)
    assert (done.result.stdout, done.result.stderr) == ("123\n", "45678\n")
    assert show.pieces[:2] == [("stdout", "123\n"), ("stderr", "45")]
    assert show.pieces[2:] == [("stderr", "\n[further output is not shown live]\n")]


async def test_output_is_shown_in_batches_and_nothing_after_the_end() -> None:
    show = Followed()
    output = shell_module._Output(show)
    output("a", "")
    output("b", "!")
    assert show.pieces == []
    await asyncio.to_thread(output, "c", "")
    output.close()
    assert show.pieces == [("stdout", "abc"), ("stderr", "!")]
    output("late", "")
    assert output.text("stdout") == "abclate"
    assert show.text("stdout") == "abc"


async def test_a_commands_changes_are_told_apart() -> None:
    job = replace(JOB, files={"/a": b"1", "/b": b"1", "/old/c": b"1"}, folders=("/old", "/kept"))
    done = await run("echo 2 > a; rm b; rm -r old; mkdir -p new/empty; ln -s a link; touch kept/d", job)
    found = done.differences
    assert found.written == {"/a": b"2\n", "/kept/d": b""}
    assert (found.removed, found.removed_folders) == (("/b", "/old/c"), ("/old",))
    assert (found.made_folders, found.links) == (("/new/empty",), ("/link",))
