"""Runs bash commands with bashkit: on a file tree in memory, without access to the host.

This code runs in the sandbox's processes.

Every command gets a new shell instance, because an instance counts its limits over its whole life. The
shell's state is carried over as a bash script that the shell itself writes (`declare -p` and similar), which
every bashkit version understands.
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
from perdure.sandbox.commands import register
from perdure.sandbox.read_loops import rewrite_read_loops

if TYPE_CHECKING:
    import bashkit

MAX_COMMANDS = 90_000
MAX_ITERATIONS = 100_000
"""Commands in one call, and iterations of one loop. bashkit's own limit is 100,000 commands."""

MAX_FILES, MAX_FOLDERS = 10_000, 9_990
"""Files and folders of a tree: bashkit's limits, less a few folders of its own."""

MAX_STATE = 256 * 1024
"""Characters of the script that restores a shell's state."""

MAX_LIVE = 512 * 1024
"""Characters of output that followers see while a command runs; the result may hold more."""

_GATHER = 0.05
"""Seconds over which output is batched before followers see it."""

_MAX_OUTPUT = 1024 * 1024
# Variables that every instance sets itself, or that concern one command only.
_OWN = frozenset(
    {
        "BASHOPTS", "BASH_VERSINFO", "BASH_VERSION", "EUID", "UID", "PPID", "SHELLOPTS", "HOSTNAME",
        "HOSTTYPE", "MACHTYPE", "OSTYPE", "OPTIND", "PIPESTATUS", "PS4", "SHELL", "SHLVL", "USER",
        "_", "PWD", "RANDOM", "SECONDS", "LINENO", "BASHPID",
    }
)  # fmt: skip
_DECLARATION = re.compile(r"declare -\S+ (\w+)")


_READ_LOOP = re.compile(r"\bread\b[^\n]{0,200}?[;\n]\s{0,200}do\b")
READ_HINT = (
    "a loop over `read` is slow here, and long ones reach the limits: use `mapfile -t lines < FILE` with a "
    "`for` loop, or awk"
)


class Network(Struct, frozen=True):
    """The URL prefixes that a shell may reach. `block_private_ips` applies to them as well."""

    allow: list[str]
    block_private_ips: bool


class ShellJob(Struct, frozen=True, tag="shell"):
    """A command and its input.

    Attributes:
        files, folders: the workspace's content; each folder comes after its parent.
        state: the script that restores the shell's state after the last command.
        seconds: the command's time limit.
    """

    command: str
    files: dict[str, bytes]
    folders: tuple[str, ...]
    state: str | None
    network: Network | None
    seconds: float


class CommandResult(Struct, frozen=True):
    """The result of a command.

    Attributes:
        state: the script that restores the shell's state; None when it cannot be kept.
        problem: why the shell stopped the command early.
    """

    exit_code: int
    stdout: str
    stderr: str
    state: str | None
    truncated: bool = False
    problem: str | None = None


class Differences(Struct, frozen=True):
    """What a command changed in the files.

    Attributes:
        made_folders: new empty folders; other folders are implied by their files.
        unseen: files and folders that the shell could not hold.
        links: links that the command created, which are not kept.
    """

    written: dict[str, bytes]
    removed: tuple[str, ...]
    removed_folders: tuple[str, ...]
    made_folders: tuple[str, ...]
    unseen: tuple[str, ...]
    links: tuple[str, ...]


class ShellDone(Struct, frozen=True):
    """The result of a shell job."""

    result: CommandResult
    differences: Differences


class _Output:
    """Collects output on bashkit's threads and passes it on, in batches, on the event loop's thread."""

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
        """The stream's output so far, up to the limit."""
        with self._lock:
            return "".join(self._pieces[stream])[:_MAX_OUTPUT]

    def close(self) -> None:
        """Show the rest of the output, and nothing that comes later."""
        self._closed = True
        self.flush()

    def flush(self) -> None:
        """Show the output that came in since the last flush."""
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
                    self._show("stderr", "\n[further output is not shown live]\n")


async def run_shell(job: ShellJob, show: Callable[[str, str], None]) -> ShellDone:
    """Run a command on the job's files.

    Args:
        show: receives the stream's name and the output while the command runs.

    Raises:
        ToolError: the shell itself failed.
    """
    shell_tree = build_tree(job.files, job.folders)
    result = await run_command(job, shell_tree.tree, show)
    return ShellDone(result, differences(shell_tree, job))


async def run_command(
    job: ShellJob, tree: bashkit.FileSystem, show: Callable[[str, str], None]
) -> CommandResult:
    """Run a command on a file tree, which the command may change."""
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
    register(shell)
    if job.state:
        await _execute(shell, job.state)
    output = _Output(show)
    try:
        script = rewrite_read_loops(job.command, shell.analyze)
        result = await _execute(shell, script, output)
    finally:
        output.close()
    # bashkit does not say so if one of our own commands has written over the limit.
    truncated = bool(result.stdout_truncated or result.stderr_truncated) or any(
        len(text.encode("utf-8", "surrogateescape")) > _MAX_OUTPUT - 4
        for text in (result.stdout, result.stderr)
    )
    problem: str | None = result.error
    if problem is None:
        return CommandResult(
            result.exit_code, result.stdout, result.stderr, await _state_of(shell), truncated
        )
    stderr = output.text("stderr")
    if not stderr.endswith(problem):
        stderr += f"bash: {problem}\n"
    if _READ_LOOP.search(job.command):
        stderr += f"bash: {READ_HINT}\n"
    return CommandResult(
        result.exit_code or 1, output.text("stdout"), stderr, await _state_of(shell), truncated, problem
    )


async def _execute(shell: bashkit.Bash, script: str, output: _Output | None = None) -> bashkit.ExecResult:
    from bashkit import BashError

    try:
        return await shell.execute(script, on_output=output)
    except BashError as error:
        raise ToolError(f"the shell failed: {error}") from None


async def _state_of(shell: bashkit.Bash) -> str | None:
    """The script that restores this shell's functions, aliases, options, variables and current folder.

    None when the state cannot be read, or is too long.
    """
    functions = await _execute(shell, "builtin declare -f; builtin alias; builtin shopt -p")
    variables = await _execute(shell, "builtin declare -p")
    if any(result.error or result.stdout_truncated for result in (functions, variables)):
        return None
    if "shopt -" not in functions.stdout or "declare -" not in variables.stdout:
        # The command has redirected all output, or has redefined `builtin`.
        return None
    # Variables come first, because a function may be called `declare`.
    lines = [line for line in variables.stdout.splitlines() if not _is_own(line)]
    lines += [line for line in functions.stdout.splitlines() if not line.startswith("shopt -u ")]
    script = "\n".join([*lines, f"builtin cd -- {shlex.quote(shell.shell_state().cwd)}"])
    return script if len(script) <= MAX_STATE and "\0" not in script else None


def _is_own(line: str) -> bool:
    declaration = _DECLARATION.match(line)
    return declaration is not None and declaration[1] in _OWN


class ShellTree(Struct, frozen=True):
    """The file tree of a shell, and the paths of the files and folders that it cannot hold."""

    tree: bashkit.FileSystem
    unseen: frozenset[str]


def build_tree(files: Mapping[str, bytes], folders: Sequence[str]) -> ShellTree:
    """Create a tree with these files and folders, as far as bashkit can hold them.

    Args:
        folders: each folder comes after its parent.

    bashkit holds 10,000,000 bytes in a file and 100,000,000 in total, MAX_FILES files and MAX_FOLDERS
    folders.
    """
    from bashkit import FileSystem

    tree = FileSystem()
    for entry in tree.read_dir("/"):
        tree.remove(f"/{entry['name']}", recursive=True)
    unseen: set[str] = set()
    # Over bashkit's counts every attempt fails, and each failure first scans the whole tree.
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
                tree.chmod(path, 0o755)  # modes are not stored, and a script with a shebang is meant to run
        except RuntimeError:
            unseen.add(path)
    return ShellTree(tree, frozenset(unseen))


def walk(tree: bashkit.FileSystem) -> tuple[list[str], set[str], list[str]]:
    """List a tree's files, folders and links."""
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


def differences(shell_tree: ShellTree, before: ShellJob) -> Differences:
    """Compare the tree with the files before the command.

    Compares contents, not sizes and times: a command can set a file's time to any value.
    """
    files, folders, links = walk(shell_tree.tree)
    written: dict[str, bytes] = {}
    for path in files:
        content = shell_tree.tree.read_file(path)
        if content != before.files.get(path):
            written[path] = content
    present = set(files)
    removed = tuple(path for path in before.files if path not in present and path not in shell_tree.unseen)
    gone = tuple(
        folder for folder in before.folders if folder not in folders and folder not in shell_tree.unseen
    )
    full = {path.rpartition("/")[0] for path in (*files, *folders)}
    known = set(before.folders)
    made = tuple(sorted(folder for folder in folders if folder not in known and folder not in full))
    return Differences(written, removed, gone, made, tuple(sorted(shell_tree.unseen)), tuple(sorted(links)))
