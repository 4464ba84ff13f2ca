"""Places that run a model's program on this machine: bubblewrap and Docker.

Both start an isolated process with `code_guest.py` and talk to it through its standard input and output. The
process sees no file, variable, process or network of this machine; its folders are in memory and vanish with
it. What comes back is data from a stranger: it is bounded in bytes and checked again where it is stored.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import itertools
import logging
import os
import shutil
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from perdure.domain.code import CodeJob, CodeLimits, CodeResult
from perdure.domain.errors import InvalidInput, ToolError
from perdure.sandbox import code_guest
from perdure.sandbox.code_guest import DONE, FILE, FRAME, LENGTH, PATH_LENGTH, STDERR, STDOUT

log = logging.getLogger("perdure.code")

PIECE = 1 << 20
"""Bytes written to or read from a pipe at once: the event loop is blocked meanwhile."""

START = 15.0
"""Seconds beyond the program's own time for starting the place, and for its files."""

GRACE = 5.0
"""Seconds that killed processes have to be gone."""

MAX_REPORT = 16 << 20
"""Bytes of a report: the paths of MAX_ENTRIES entries."""

FRAMES, SPARE_FRAMES = 200, 1000
"""Frames that a guest may send: for each second, and beyond. The event loop looks at each of them."""

COMPLAINT = 1.0
"""Seconds to wait for what a command says that has failed."""

MAX_COMPLAINT = 4096
"""Bytes that are read of what a back end itself complains about."""

SPARE_BYTES = 64 << 20
"""Bytes of the folders for temporary files and shared memory, and of what a workspace may grow meanwhile."""

FAILED = (
    "The code was not run: the place where this server runs code does not work. The server's log has the "
    "reason for its operator."
)
LOST = "The code was stopped: it ended the place it ran in, or hung. No file was changed."

_FIRST_STRANGER, _STRANGERS = 0x6000_0000, 0x1000_0000
"""The first and the number of the user ids of programs, on a server that runs as root. Nobody else has them.
"""


class Place:
    """Runs each program in a process of its own that a command starts. Subclasses know the command.

    Raises:
        InvalidInput: the command is not installed.
    """

    name, program = "", ""
    counts_processes = False
    """Whether the command limits the processes itself."""

    def __init__(self, limits: CodeLimits) -> None:
        self._limits = limits
        self._program = self._installed(self.program)
        # Read once, as it must be that of this version of the server, even if files are replaced meanwhile.
        self._guest = Path(code_guest.__file__).read_text()

    def _installed(self, program: str) -> str:
        found = shutil.which(program)
        if found is None:
            raise InvalidInput(
                f"PERDURE_CODE_INTERPRETER is {self.name}, but the program {program} is not installed here: "
                "install it, or set another back end",
                code="invalid_setting",
            )
        return found

    @property
    def limits(self) -> CodeLimits:
        return self._limits

    @property
    def has_network(self) -> bool:
        return False

    def command(self, run: str, job: CodeJob, guest: str) -> list[str]:
        """The command that starts a place for one run; `run` names it."""
        raise NotImplementedError

    async def remove(self, run: str) -> None:
        """Remove what may be left of a run after its command was killed."""

    async def run(self, job: CodeJob, show: Callable[[str, str], None]) -> CodeResult:
        """Run a program; see `CodeBackEnd`."""
        run = f"perdure-{uuid4().hex}"
        try:
            process = await asyncio.create_subprocess_exec(
                *self.command(run, job, self._guest),
                stdin=PIPE, stdout=PIPE, stderr=PIPE, cwd="/", start_new_session=True,
                env=self.environment(),
            )  # fmt: skip
        except OSError as error:
            log.warning("cannot start %s: %s", self.name, error.strerror)
            raise ToolError(FAILED) from None
        finished = False
        try:
            talk = _Conversation(process, self._limits, show, count=not self.counts_processes)
            result = await talk.hold(job, self.name)
            finished = True
            return result
        finally:
            await asyncio.shield(self._end(process, run, finished=finished))

    def environment(self) -> dict[str, str]:
        """The environment of the command."""
        return {}

    async def _end(self, process: Process, run: str, *, finished: bool) -> None:
        """Kill whatever is left of a run, and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if process.stdin is not None:
            process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                # asyncio reports the exit only after the pipes have ended.
                for pipe in (process.stdout, process.stderr):
                    while pipe is not None and await pipe.read(PIECE):
                        pass
                await process.wait()
        if not finished:
            await self.remove(run)


class Bubblewrap(Place):
    """Namespaces of the kernel, set up by the program `bwrap`.

    Args:
        python: the interpreter; by default the first that works of the server's own and the system's.

    Raises:
        InvalidInput: there is no such interpreter.
    """

    name, program = "bubblewrap", "bwrap"

    def __init__(self, limits: CodeLimits, python: str = "") -> None:
        super().__init__(limits)
        own = getattr(sys, "_base_executable", sys.executable)
        choices = (python,) if python else (own, "/usr/local/bin/python3", "/usr/bin/python3")
        found = next((Path(each).resolve() for each in choices if self._is_usable(Path(each))), None)
        if found is None:
            raise InvalidInput(
                f"no Python interpreter for code: {', '.join(choices)} cannot be run by every user. Set "
                "PERDURE_CODE_PYTHON to one that can",
                code="invalid_setting",
            )
        self._python = found
        # uvloop starts no processes of other users itself.
        self._change_user = None if os.getuid() else self._installed("setpriv")
        self._runs = itertools.count()

    def _as_stranger(self) -> Iterator[str]:
        """The beginning of a command that root starts as a user who has no rights.

        The kernel counts no processes of root, and root could undo more.
        """
        if self._change_user is not None:
            user = str(_FIRST_STRANGER + next(self._runs) % _STRANGERS)
            yield from (self._change_user, "--reuid", user, "--regid", user, "--clear-groups", "--")

    def _is_usable(self, python: Path) -> bool:
        if not os.access(python, os.X_OK):
            return False
        where = python.resolve()
        return os.getuid() != 0 or all(folder.stat().st_mode & 1 for folder in (where, *where.parents))

    def command(self, run: str, job: CodeJob, guest: str) -> list[str]:
        spare, files = str(SPARE_BYTES), str(self._limits.total_bytes + SPARE_BYTES)
        return [
            *self._as_stranger(), self._program,
            "--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session",
            "--cap-drop", "ALL", "--uid", "1000", "--gid", "1000", "--hostname", "code", "--clearenv",
            *self._system(),
            "--proc", "/proc", "--dev", "/dev", "--size", spare, "--tmpfs", "/dev/shm",  # noqa: S108
            "--remount-ro", "/dev",
            "--size", spare, "--tmpfs", "/tmp", "--size", files, "--tmpfs", code_guest.ROOT,  # noqa: S108
            "--remount-ro", "/", "--chdir", "/",
            "--", str(self._python), "-I", "-c", guest,
        ]  # fmt: skip

    def _system(self) -> Iterator[str]:
        """The options that show the interpreter and the libraries of the system, and nothing else."""
        for name in ("/lib", "/lib32", "/lib64"):
            if Path(name).is_symlink():
                yield from ("--symlink", str(Path(name).readlink()), name)
            else:
                yield from ("--ro-bind-try", name, name)
        for name in ("/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache"):
            yield from ("--ro-bind-try", name, name)
        yield from ("--ro-bind-try", "/nix/store", "/nix/store")
        yield from ("--ro-bind", str(self._python), str(self._python))
        prefix = self._python.parent.parent
        if prefix != Path("/usr"):
            yield from ("--ro-bind", str(prefix / "lib"), str(prefix / "lib"))


class Docker(Place):
    """A container for each program, started with the command line of Docker.

    Args:
        image: an image with `python3`.
        network: the Docker network that programs may use; `none` for no network.
    """

    name, program = "docker", "docker"
    counts_processes = True  # all containers share a user, whose processes the kernel would count together

    def __init__(self, limits: CodeLimits, image: str, network: str = "none") -> None:
        super().__init__(limits)
        self._image, self._network = image, network

    @property
    def has_network(self) -> bool:
        return self._network != "none"

    def environment(self) -> dict[str, str]:
        passed = ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY", "HOME", "PATH")
        return {name: os.environ[name] for name in passed if name in os.environ}

    def command(self, run: str, job: CodeJob, guest: str) -> list[str]:
        limits = self._limits
        spare, files = SPARE_BYTES, limits.total_bytes + SPARE_BYTES
        memory = limits.memory_bytes + files + 2 * spare  # files in memory count, and so does the guest
        return [
            self._program, "run", "--rm", "--interactive", "--name", run, "--hostname", "code",
            "--network", self._network if job.network else "none",
            "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
            "--user", "65534:65534", "--ipc", "private", "--shm-size", str(spare),
            "--pids-limit", str(limits.processes + code_guest.OWN_PROCESSES), "--cpus", "1",
            "--memory", str(memory), "--memory-swap", str(memory), "--log-driver", "none",
            "--tmpfs", f"/tmp:rw,nosuid,nodev,size={spare},mode=1777",  # noqa: S108
            "--tmpfs", f"{code_guest.ROOT}:rw,nosuid,nodev,size={files},mode=1777",
            "--workdir", "/", "--entrypoint", "python3", self._image, "-I", "-c", guest,
        ]  # fmt: skip

    async def remove(self, run: str) -> None:
        # Without its command the container notices the end of its input; this is for one that hangs.
        with contextlib.suppress(OSError, TimeoutError):
            process = await asyncio.create_subprocess_exec(
                self._program, "rm", "--force", run,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL, env=self.environment(), start_new_session=True,
            )  # fmt: skip
            try:
                async with asyncio.timeout(GRACE):
                    await process.wait()
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()


class _Conversation:
    """What is said to a guest and what it answers. `count`: whether the guest limits the processes."""

    def __init__(
        self, process: Process, limits: CodeLimits, show: Callable[[str, str], None], *, count: bool
    ) -> None:
        self._process, self._limits, self._show, self._count = process, limits, show, count
        self._streams = {STDOUT: _Stream("stdout"), STDERR: _Stream("stderr")}
        self._written: dict[str, bytes] = {}
        self._room = {STDOUT: limits.output_bytes, FILE: limits.total_bytes + limits.entries * 4096}

        self._frames = limits.entries + SPARE_FRAMES
        self._paths = limits.entries

    async def hold(self, job: CodeJob, name: str) -> CodeResult:
        """Send the job and read what the guest answers. Raises ToolError."""
        self._frames += FRAMES * job.seconds
        self._paths += len(job.files) + len(job.folders)
        complaint = asyncio.create_task(_complaint(self._process))
        sending = asyncio.create_task(self._send(job))
        try:
            async with asyncio.timeout(job.seconds + START):
                return await self._read()
        except (OSError, asyncio.IncompleteReadError, _Nonsense, TimeoutError):
            if any(stream.text for stream in self._streams.values()):
                raise ToolError(LOST) from None
            await asyncio.wait((complaint,), timeout=COMPLAINT)
            said = complaint.result() if complaint.done() else ""
            if not said:
                raise ToolError(LOST) from None
            log.warning("%s did not run the code: %s", name, said)
            raise ToolError(FAILED) from None
        finally:
            for task in (complaint, sending):
                task.cancel()
            await asyncio.gather(complaint, sending, return_exceptions=True)

    async def _send(self, job: CodeJob) -> None:
        stdin, limits = self._process.stdin, self._limits
        if stdin is None:
            raise AssertionError("the process has pipes")
        head = msgspec.json.encode(
            {
                "code": job.code,
                "seconds": job.seconds,
                "memory_bytes": limits.memory_bytes,
                "processes": limits.processes if self._count else None,
                "output_bytes": limits.output_bytes,
                "file_bytes": limits.file_bytes,
                "total_bytes": limits.total_bytes,
                "entries": limits.entries,
                "folders": job.folders,
                "files": [(path, len(content)) for path, content in job.files.items()],
            }
        )
        with contextlib.suppress(OSError):  # the reader says what happened
            stdin.write(LENGTH.pack(len(head)) + head)
            for content in job.files.values():
                for at in range(0, len(content), PIECE):
                    stdin.write(content[at : at + PIECE])
                    await stdin.drain()
            await stdin.drain()

    async def _read(self) -> CodeResult:
        stdout = self._process.stdout
        if stdout is None:
            raise AssertionError("the process has pipes")
        while True:
            kind, length = FRAME.unpack(await stdout.readexactly(FRAME.size))
            self._check(kind, length)
            sizes = [min(PIECE, length - at) for at in range(0, length, PIECE)]
            payload = b"".join([await stdout.readexactly(size) for size in sizes])
            if kind == DONE:
                return await asyncio.to_thread(self._result, payload)
            if kind == FILE:
                (size,) = PATH_LENGTH.unpack_from(payload)
                path = payload[PATH_LENGTH.size : PATH_LENGTH.size + size].decode("utf-8", "replace")
                self._written[path] = payload[PATH_LENGTH.size + size :]
            elif text := self._streams[kind].add(payload):
                self._show(self._streams[kind].name, text)

    def _check(self, kind: int, length: int) -> None:
        """Raise if a frame is not one of a guest: the program may have written it."""
        limit = STDOUT if kind == STDERR else kind
        self._frames -= 1
        if kind == DONE and length <= MAX_REPORT:
            return
        if (
            limit not in self._room
            or length > self._room[limit]
            or length < PATH_LENGTH.size ** (kind == FILE)
        ):
            raise _Nonsense
        self._room[limit] -= length
        if self._frames < 0:
            raise _Nonsense

    def _result(self, payload: bytes) -> CodeResult:
        try:
            report = msgspec.json.decode(payload, type=dict[str, Any])
            if any(isinstance(each, list) and len(each) > self._paths for each in report.values()):
                raise _Nonsense  # the event loop would look at each of these paths
            own: dict[str, Any] = {
                "stdout": self._streams[STDOUT].text,
                "stderr": self._streams[STDERR].text,
                "written": self._written,
            }
            return msgspec.convert(report | own, CodeResult)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise _Nonsense from None


class _Nonsense(Exception):
    """A guest sent what no guest sends."""


class _Stream:
    """A stream's text, decoded as it comes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pieces: list[str] = []

    def add(self, piece: bytes) -> str:
        text = self._decoder.decode(piece)
        self._pieces.append(text)
        return text

    @property
    def text(self) -> str:
        return "".join(self._pieces)


async def _complaint(process: Process) -> str:
    """The beginning of what the back end's own command says on its error output, without control codes."""
    stderr = process.stderr
    if stderr is None:
        raise AssertionError("the process has pipes")
    said = b""
    while piece := await stderr.read(PIECE):
        said = (said + piece)[:MAX_COMPLAINT]
    return "".join(each if each.isprintable() else " " for each in said.decode("utf-8", "replace")).strip()
