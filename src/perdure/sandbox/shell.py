"""Running bash commands (bashkit): their files are a tree in memory, and there is no host.

Runs in the sandbox's processes.

Every command gets an instance of its own, so none of the limits that an instance counts over its life is ever
used up. What a shell remembers travels as a bash script that the shell itself writes (`declare -p` and the
like): it means the same to every version of the sandbox.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct, to_builtins

from perdure.domain.errors import ToolError
from perdure.domain.paths import MOUNT

if TYPE_CHECKING:
    import bashkit

MAX_COMMANDS = 90_000
MAX_ITERATIONS = 100_000
"""Commands in one call, and rounds of one loop. The sandbox itself ends at 100,000 commands."""

MAX_FILES, MAX_FOLDERS = 10_000, 9_990
"""Files and folders of a tree: what the sandbox holds, some folders of its own aside."""

MAX_STATE = 256 * 1024
"""Characters of what a shell remembers."""

MAX_LIVE = 512 * 1024
"""Characters of output that followers are shown while a command runs; the result holds more."""

_GATHER = 0.05
"""Seconds over which output is gathered before followers see it."""

_MAX_OUTPUT = 1024 * 1024
# What every instance sets by itself, or what is about one command only.
_OWN = frozenset(
    {
        "BASHOPTS", "BASH_VERSINFO", "BASH_VERSION", "EUID", "UID", "PPID", "SHELLOPTS", "HOSTNAME",
        "HOSTTYPE", "MACHTYPE", "OSTYPE", "OPTIND", "PIPESTATUS", "PS4", "SHELL", "SHLVL", "USER",
        "_", "PWD", "RANDOM", "SECONDS", "LINENO", "BASHPID",
    }
)  # fmt: skip
_DECLARATION = re.compile(r"declare -\S+ (\w+)")


class Network(Struct, frozen=True):
    """What a shell may reach: these addresses and all below them.

    Private ones only if they are not blocked.
    """

    allow: list[str]
    block_private_ips: bool


class ShellJob(Struct, frozen=True, tag="shell"):
    """A command, and what it is run on.

    Attributes:
        files, folders: what the workspace holds; each folder after the one that it is in.
        state: what the shell remembered after the last command.
        seconds: how long it may run.
    """

    command: str
    files: dict[str, bytes]
    folders: tuple[str, ...]
    state: str | None
    network: Network | None
    seconds: float


class Ran(Struct, frozen=True):
    """What a command came to.

    Attributes:
        state: the script that brings the shell back; None when it is too long to be kept.
        problem: why the sandbox ended it before it was done.
    """

    exit_code: int
    stdout: str
    stderr: str
    state: str | None
    truncated: bool = False
    problem: str | None = None


class Differences(Struct, frozen=True):
    """What is otherwise in the files than it was.

    Attributes:
        made_folders: those with nothing in them; others come along with their files.
        unseen: files and folders that the sandbox could not hold.
        links: links that the command made, which are not kept.
    """

    written: dict[str, bytes]
    removed: tuple[str, ...]
    removed_folders: tuple[str, ...]
    made_folders: tuple[str, ...]
    unseen: tuple[str, ...]
    links: tuple[str, ...]


class ShellDone(Struct, frozen=True):
    """What a job came to."""

    ran: Ran
    differences: Differences


class _Output:
    """Gathers output from whatever thread the sandbox runs on, and hands it on, on the event loop's."""

    def __init__(self, show: Callable[[str, str], None]) -> None:
        self._show = show
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._pieces: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._sizes = {"stdout": 0, "stderr": 0}
        self._shown = {"stdout": 0, "stderr": 0}
        self._budget = MAX_LIVE
        self._scheduled = False
        self._closed = False

    def __call__(self, stdout: str, stderr: str) -> None:
        with self._lock:
            for stream, text in (("stdout", stdout), ("stderr", stderr)):
                if text and self._sizes[stream] < _MAX_OUTPUT:
                    self._pieces[stream].append(text)
                    self._sizes[stream] += len(text)
            if self._scheduled or self._closed:
                return
            self._scheduled = True
        self._loop.call_soon_threadsafe(self._loop.call_later, _GATHER, self.flush)

    def text(self, stream: str) -> str:
        """All of a stream so far, up to what is kept."""
        with self._lock:
            return "".join(self._pieces[stream])[:_MAX_OUTPUT]

    def close(self) -> None:
        """Show what is left, and nothing after it."""
        self._closed = True
        self.flush()

    def flush(self) -> None:
        """Show what came in since the last time."""
        with self._lock:
            self._scheduled = False
            fresh = {}
            for stream, pieces in self._pieces.items():
                fresh[stream] = "".join(pieces[self._shown[stream] :])
                self._shown[stream] = len(pieces)
        for stream, text in fresh.items():
            if text and self._budget > 0:
                self._show(stream, text[: self._budget])
                self._budget -= len(text)
                if self._budget <= 0:
                    self._show("stderr", "\n[more output is not shown live]\n")


async def run_shell(job: ShellJob, show: Callable[[str, str], None]) -> ShellDone:
    """Run a command on files.

    Args:
        show: gets the output while it comes in, with the stream's name.

    Raises:
        ToolError: the sandbox failed.
    """
    planted = plant(job.files, job.folders)
    ran = await run_command(job, planted.tree, show)
    return ShellDone(ran, differences(planted, job))


async def run_command(job: ShellJob, tree: bashkit.FileSystem, show: Callable[[str, str], None]) -> Ran:
    """Run a command on a tree of files, which it may change."""
    from bashkit import Bash

    shell = Bash(
        cwd=MOUNT,
        username="agent",
        hostname="session",
        max_commands=MAX_COMMANDS,
        max_loop_iterations=MAX_ITERATIONS,
        timeout_seconds=job.seconds,
        network=None if job.network is None else to_builtins(job.network),
    )
    shell.mount(MOUNT, tree)
    if job.state:
        await _execute(shell, job.state)
    output = _Output(show)
    try:
        result = await _execute(shell, job.command, output)
    finally:
        output.close()
    truncated = bool(result.stdout_truncated or result.stderr_truncated)
    problem: str | None = result.error
    if problem is None:
        return Ran(result.exit_code, result.stdout, result.stderr, await _state_of(shell), truncated)
    stderr = output.text("stderr")
    if not stderr.endswith(problem):
        stderr += f"bash: {problem}\n"
    return Ran(
        result.exit_code or 1, output.text("stdout"), stderr, await _state_of(shell), truncated, problem
    )


async def _execute(shell: bashkit.Bash, script: str, output: _Output | None = None) -> bashkit.ExecResult:
    from bashkit import BashError

    try:
        return await shell.execute(script, on_output=output)
    except BashError as error:
        raise ToolError(f"the shell failed: {error}") from None


async def _state_of(shell: bashkit.Bash) -> str | None:
    """A script that makes another shell like this one: functions, aliases, options, variables, folder."""
    functions = await _execute(shell, "builtin declare -f; builtin alias; builtin shopt -p")
    variables = await _execute(shell, "builtin declare -p")
    if any(each.error or each.stdout_truncated for each in (functions, variables)):
        return None
    if "shopt -" not in functions.stdout or "declare -" not in variables.stdout:
        # The command has sent all output elsewhere, or put something of its own in the place of `builtin`.
        return None
    # Variables first: a function may be called `declare`.
    lines = [line for line in variables.stdout.splitlines() if not _is_own(line)]
    lines += [line for line in functions.stdout.splitlines() if not line.startswith("shopt -u ")]
    script = "\n".join([*lines, f"builtin cd -- {shlex.quote(shell.shell_state().cwd)}"])
    return script if len(script) <= MAX_STATE and "\0" not in script else None


def _is_own(line: str) -> bool:
    named = _DECLARATION.match(line)
    return named is not None and named[1] in _OWN


class Planted(Struct, frozen=True):
    """A tree for a shell, and the paths of the files and folders that it cannot hold."""

    tree: bashkit.FileSystem
    unseen: frozenset[str]


def plant(files: Mapping[str, bytes], folders: Sequence[str]) -> Planted:
    """A tree of these files and folders, as far as the sandbox can hold them.

    A folder comes after the one that it is in. The sandbox takes 10,000,000 bytes a file and 100,000,000
    altogether, and so many files and folders.
    """
    from bashkit import FileSystem

    tree = FileSystem()
    for entry in tree.read_dir("/"):
        tree.remove(f"/{entry['name']}", recursive=True)
    unseen: set[str] = set()
    # Beyond its counts every attempt would fail, and only after a look at all that is there.
    unseen.update(folders[MAX_FOLDERS:], list(files)[MAX_FILES:])
    for folder in folders[:MAX_FOLDERS]:
        try:
            tree.mkdir(folder, recursive=True)
        except RuntimeError:
            unseen.add(folder)
    for path in list(files)[:MAX_FILES]:
        try:
            tree.write_file(path, files[path])
            if files[path].startswith(b"#!"):
                tree.chmod(path, 0o755)  # modes are not kept, and what begins so is meant to be run
        except RuntimeError:
            unseen.add(path)
    return Planted(tree, frozenset(unseen))


def look(tree: bashkit.FileSystem) -> tuple[list[str], set[str], list[str]]:
    """The files of a tree, its folders, and its links."""
    files: list[str] = []
    links: list[str] = []
    folders: set[str] = set()
    waiting = ["/"] if tree.exists("/") else []
    while waiting:
        folder = waiting.pop()
        for entry in tree.read_dir(folder):
            path = f"{folder.rstrip('/')}/{entry['name']}"
            kind = entry["metadata"]["file_type"]
            if kind == "directory":
                folders.add(path)
                waiting.append(path)
            elif kind == "file":
                files.append(path)
            elif kind == "symlink":
                links.append(path)
    return files, folders, links


def differences(planted: Planted, before: ShellJob) -> Differences:
    """What is otherwise in the tree than it was in the files.

    Contents are compared, not sizes and times: a command may set a file's time as it likes.
    """
    files, folders, links = look(planted.tree)
    written: dict[str, bytes] = {}
    for path in files:
        content = planted.tree.read_file(path)
        if content != before.files.get(path):
            written[path] = content
    there = set(files)
    removed = tuple(path for path in before.files if path not in there and path not in planted.unseen)
    gone = tuple(
        folder for folder in before.folders if folder not in folders and folder not in planted.unseen
    )
    full = {path.rpartition("/")[0] for path in (*files, *folders)}
    known = set(before.folders)
    made = tuple(sorted(folder for folder in folders if folder not in known and folder not in full))
    return Differences(written, removed, gone, made, tuple(sorted(planted.unseen)), tuple(sorted(links)))
