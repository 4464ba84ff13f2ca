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
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Struct, to_builtins
from msgspec.structs import replace

from perdure.domain.errors import ToolError
from perdure.domain.paths import MOUNT
from perdure.sandbox.commands import register
from perdure.sandbox.frames import LONG
from perdure.sandbox.read_loops import rewrite_read_loops
from perdure.sandbox.tree import Folder, Link, Tree
from perdure.sandbox.tree_commands import register_for

if TYPE_CHECKING:
    import bashkit

MAX_COMMANDS = 90_000
MAX_ITERATIONS = 100_000
"""Commands in one call, and iterations of one loop. bashkit's own limit is 100,000 commands."""

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
        links: links that the command created, which are not kept.
    """

    written: dict[str, bytes]
    removed: tuple[str, ...]
    removed_folders: tuple[str, ...]
    made_folders: tuple[str, ...]
    links: tuple[str, ...]


class ShellDone(Struct, frozen=True):
    """The result of a shell job."""

    result: CommandResult
    differences: Differences

    def apart(self) -> tuple[ShellDone, dict[str, bytes]]:
        """Return it without the long files, and these, by path."""
        written = self.differences.written
        long = {path: content for path, content in written.items() if len(content) >= LONG}
        return self._with({path: content for path, content in written.items() if path not in long}), long

    def whole(self, contents: dict[str, bytes]) -> ShellDone:
        """Return it with these files."""
        return self._with(self.differences.written | contents)

    def _with(self, written: dict[str, bytes]) -> ShellDone:
        return replace(self, differences=replace(self.differences, written=written))


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
    from perdure.sandbox.tree_abi import mounted

    tree = Tree(job.files, job.folders)
    with mounted(tree) as files:
        result = await _run_command(job, tree, files, show)
    return ShellDone(result, differences(tree, job))


async def _run_command(
    job: ShellJob, tree: Tree, files: bashkit.FileSystem, show: Callable[[str, str], None]
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
    shell.mount(MOUNT, files)
    register(shell)
    register_for(shell, tree)
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


def differences(tree: Tree, before: ShellJob) -> Differences:
    """Compare the tree with the files before the command.

    Compares contents, not sizes and times: a command can set a file's time to any value. A content that
    nobody has replaced is the same object.
    """
    written: dict[str, bytes] = {}
    present: set[str] = set()
    links: list[str] = []
    folders: set[str] = set()
    full: set[str] = set()
    for path, node in tree.nodes():
        full.add(path.rpartition("/")[0])
        if isinstance(node, Folder):
            folders.add(path)
        elif isinstance(node, Link):
            links.append(path)
        elif not node.is_pipe:
            present.add(path)
            known = before.files.get(path)
            if node.content is not known and node.content != known:
                written[path] = bytes(node.content)
    return Differences(
        written,
        tuple(path for path in before.files if path not in present),
        tuple(folder for folder in before.folders if folder not in folders),
        tuple(sorted(folders.difference(before.folders, full))),
        tuple(sorted(links)),
    )
