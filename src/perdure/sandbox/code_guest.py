"""Runs one program inside an isolated place, under limits, and reports its output and the files it changed.

The back ends send the source of this module to `python -c` in the place, so it needs only the standard
library, and runs with any Python from 3.9. It is the only process there besides the program's own.

Standard input: the length of a JSON job, the job, and the contents of its files, one after another. Standard
output: frames of a kind, a length and a payload. The end of standard input ends everything.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import resource
import select
import signal
import stat
import struct
import subprocess
import sys
import time
from io import FileIO
from typing import Any

Json = dict[str, Any]

LENGTH = struct.Struct("!I")
FRAME = struct.Struct("!BI")
STDOUT, STDERR, FILE, DONE = 1, 2, 3, 4
PATH_LENGTH = struct.Struct("!H")

ROOT, PROGRAM = "/workspace", "/tmp/run_python.py"  # noqa: S108 (a folder of the isolated place)
BEAT = 0.02
"""Seconds between two looks at the program: output is gathered meanwhile."""

MEASURED = 0.1
"""Seconds between two measurements of memory and files."""

PIECE = 64 * 1024
LONGEST_PATH = 4096
OWN_PROCESSES = 4
"""Processes of the place itself, which count towards its limit."""

INIT = 2
"""The highest process id that this module has in a place of its own."""

SET_DUMPABLE, SET_SECCOMP, SET_NO_NEW_PRIVILEGES = 4, 22, 38
"""Options of `prctl`."""

MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""How seccomp names a machine's instruction set, and the column of its numbers below."""
SOCKET = (41, 198)
REFUSED = {
    # Memory that no process shows and no folder limits.
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "msgget": (68, 186),
    # Ways around the network's namespace and these rules.
    "io_uring_setup": (425, 425), "pidfd_getfd": (438, 438),
    # What no program needs, and attacks on the kernel begin with.
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "userfaultfd": (323, 282), "perf_event_open": (298, 241), "bpf": (321, 280), "keyctl": (250, 219),
    "add_key": (248, 217), "request_key": (249, 218), "unshare": (272, 97), "setns": (308, 268),
    "mount": (165, 40), "fsopen": (430, 430), "open_tree": (428, 428),
}  # fmt: skip
"""Numbers of system calls that programs may not make."""
FAMILIES = (1, 2, 10, 16)
"""Families of sockets that stay in the place: Unix, IPv4, IPv6, netlink. Those of virtual machines (vsock) do
not."""


def main() -> None:
    """Run the job of standard input."""
    source = os.fdopen(0, "rb", buffering=0)
    (length,) = LENGTH.unpack(_exactly(source, LENGTH.size))
    job = json.loads(_exactly(source, length))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:  # noqa: PTH123
        score.write("1000")  # short of memory, the kernel ends this before the server
    library = _c_library()
    if library is not None:
        # A program of the same user could otherwise write into this process, which has no limits.
        library.prctl(SET_DUMPABLE, 0, 0, 0, 0)
    hashes = _write_files(source, job)
    program = _start(job, library)
    stopped, output = _watch(program, job)
    _kill_all(program)
    exit_code = program.wait()
    output.finish()
    collected = _Collected(job, hashes)
    if stopped != "files":
        collected.walk()
    report = collected.report()
    report["exit_code"] = exit_code if exit_code >= 0 else 128 - exit_code
    report["stopped"], report["truncated"] = stopped, output.truncated
    _send(DONE, json.dumps(report).encode())


def _exactly(source: FileIO, size: int) -> bytes:
    pieces = []
    while size:
        piece = source.read(min(size, 1 << 20))
        if not piece:
            os._exit(1)
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _write_files(source: FileIO, job: Json) -> dict[str, str]:
    """Write the job's files; returns their hashes by path."""
    hashes = {}
    for folder in job["folders"]:
        os.makedirs(ROOT + folder, exist_ok=True)  # noqa: PTH103
    for path, size in job["files"]:
        content = _exactly(source, size)
        hashes[path] = hashlib.sha256(content).hexdigest()
        os.makedirs(os.path.dirname(ROOT + path), exist_ok=True)  # noqa: PTH103, PTH120
        with open(ROOT + path, "wb") as file:  # noqa: PTH123
            file.write(content)
    with open(PROGRAM, "w", encoding="utf-8", errors="surrogatepass") as file:  # noqa: PTH123
        file.write(job["code"])
    return hashes


def _c_library() -> Any:
    """The C library, for what Python has no function for; None if this Python cannot call it."""
    try:
        import ctypes

        library = ctypes.CDLL(None)
        library.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
        return library
    except (ImportError, OSError):
        return None


def _rules() -> bytes:
    """A seccomp filter for programs; empty on machines whose system calls are not known here."""
    if platform.machine() not in MACHINES:
        return b""
    architecture, column = MACHINES[platform.machine()]
    load, equal, at_least, end = 0x20, 0x15, 0x35, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000
    rules = [
        (load, 0, 0, 4), (equal, 1, 0, architecture), (end, 0, 0, refuse | errno.ENOSYS),
        # Numbers from here on are those of x32, which reach the same calls.
        (load, 0, 0, 0), (at_least, 0, 1, 0x40000000), (end, 0, 0, refuse | errno.ENOSYS),
    ]  # fmt: skip
    for numbers in REFUSED.values():
        rules += [(equal, 0, 1, numbers[column]), (end, 0, 0, refuse | errno.ENOSYS)]
    families = [rule for each in FAMILIES for rule in ((equal, 0, 1, each), (end, 0, 0, allow))]
    rules += [(equal, 0, len(families) + 2, SOCKET[column]), (load, 0, 0, 16), *families]
    rules += [(end, 0, 0, refuse | errno.EAFNOSUPPORT), (end, 0, 0, allow)]
    return b"".join(struct.pack("HBBI", *rule) for rule in rules)


def _obey(library: Any, rules: bytes) -> None:
    """Have the kernel apply a seccomp filter to this process and those that it starts."""
    import ctypes

    held = ctypes.create_string_buffer(rules, len(rules))
    program = ctypes.create_string_buffer(struct.pack("HP", len(rules) // 8, ctypes.addressof(held)))
    library.prctl(SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    library.prctl(SET_SECCOMP, 2, ctypes.addressof(program), 0, 0)


def _start(job: Json, library: Any) -> subprocess.Popen[bytes]:
    rules = b"" if library is None else _rules()

    def limit() -> None:
        limits = {
            resource.RLIMIT_AS: job["memory_bytes"],
            resource.RLIMIT_NOFILE: 256,
            resource.RLIMIT_CORE: 0,
        }
        if job["processes"] is not None:
            limits[resource.RLIMIT_NPROC] = job["processes"] + OWN_PROCESSES
        for kind, value in limits.items():
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(kind, (value, value))
        os.nice(5)
        if rules:
            _obey(library, rules)

    environment = {
        "HOME": "/tmp", "LANG": "C.UTF-8", "PATH": "/usr/local/bin:/usr/bin:/bin",  # noqa: S108
        "PYTHONPATH": ROOT,
        "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8:backslashreplace",
        "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "USER": "agent", "MPLBACKEND": "agg",
    }  # fmt: skip
    return subprocess.Popen(  # noqa: S603 (it is meant to run untrusted code)
        [sys.executable, PROGRAM],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=limit,  # noqa: PLW1509 (there are no threads here)
    )


class _Output:
    """Passes the program's output on, up to the limit, and discards the rest."""

    def __init__(self, program: subprocess.Popen[bytes], limit: int) -> None:
        if program.stdout is None or program.stderr is None:
            raise AssertionError("the program has pipes")
        self._pipes = [(STDOUT, program.stdout.fileno()), (STDERR, program.stderr.fileno())]
        for _, pipe in self._pipes:
            os.set_blocking(pipe, False)
        self._left = limit
        self.truncated = False

    def pass_on(self) -> bool:
        """Pass on what there is; returns whether there was anything."""
        found = False
        for kind, pipe in self._pipes:
            with contextlib.suppress(BlockingIOError):
                piece = os.read(pipe, PIECE)
                found = found or bool(piece)
                self.truncated = self.truncated or len(piece) > self._left
                piece = piece[: self._left]
                self._left -= len(piece)
                if piece:
                    _send(kind, piece)
        return found

    def finish(self) -> None:
        """Pass on what is left in the pipes, whose writers are gone."""
        while self.pass_on():
            pass


def _watch(program: subprocess.Popen[bytes], job: Json) -> tuple[str | None, _Output]:
    """Wait until the program ends or breaks a limit; returns which one, and the output."""
    output = _Output(program, job["output_bytes"])
    deadline, measured = time.monotonic() + job["seconds"], 0.0
    while program.poll() is None:
        output.pass_on()
        now = time.monotonic()
        if now > deadline:
            return "time", output
        if now - measured > MEASURED:
            measured = now
            if _memory(job["memory_bytes"]) > job["memory_bytes"]:
                return "memory", output
            if _entries() > job["entries"]:
                return "files", output
        if select.select([0], [], [], BEAT)[0]:  # nothing comes after the job: the server is gone
            _kill_all(program)
            os._exit(1)
    return None, output


def _memory(limit: int) -> int:
    """Bytes of memory of all processes here; if they are over the limit, without files and repetitions."""
    others = [name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]  # noqa: PTH208
    pages = 0
    for name in others:
        with contextlib.suppress(OSError, IndexError):
            pages += int(_read(f"/proc/{name}/statm").split()[1])
    most = pages * resource.getpagesize()
    return most if most <= limit else sum(map(_own_memory, others))


def _own_memory(process: str) -> int:
    """Bytes of memory that a process has for itself, and its share of what it has with others."""
    with contextlib.suppress(OSError):  # a process can hide its shares, but not all that it has
        shares = _sizes(_read(f"/proc/{process}/smaps_rollup"), ("Pss_Anon:", "Pss_Shmem:"))
        if shares:
            return shares
    with contextlib.suppress(OSError):
        return _sizes(_read(f"/proc/{process}/status"), ("RssAnon:", "RssShmem:"))
    return 0


def _sizes(text: str, names: tuple[str, ...]) -> int:
    """The bytes that lines like `RssAnon:  12 kB` name, together."""
    lines = (line.split() for line in text.splitlines() if line.startswith(names))
    return sum(int(line[1]) << 10 for line in lines)


def _read(path: str) -> str:
    with open(path, errors="replace") as file:  # noqa: PTH123
        return file.read()


def _entries() -> int:
    """Files and folders in the places that can be written to: each takes memory, also an empty one."""
    count = 0
    for place in (ROOT, "/tmp", "/dev/shm"):  # noqa: S108
        with contextlib.suppress(OSError):
            found = os.statvfs(place)
            count += found.f_files - found.f_ffree
    return count


def _kill_all(program: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        os.killpg(program.pid, signal.SIGKILL)
    if os.getpid() <= INIT:  # elsewhere it would end processes of others
        with contextlib.suppress(OSError):
            os.kill(-1, signal.SIGKILL)


class _Collected:
    """What the program left: its changes to the job's files are sent as they are found."""

    def __init__(self, job: Json, hashes: dict[str, str]) -> None:
        self._job, self._hashes = job, hashes
        self._left: int = job["total_bytes"]
        self.files: set[str] = set()
        self.folders: list[str] = []
        self.links: list[str] = []
        self.odd: list[str] = []
        self.complete = False

    def walk(self) -> None:
        """Send every file that the program made or changed."""
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            try:
                with os.scandir(ROOT + folder) as entries:
                    found = sorted(entries, key=lambda entry: entry.name)
            except OSError:  # its path is too long, or it cannot be read
                self.odd.append(_shown(folder))
                continue
            for entry in found:
                if self._count() >= self._job["entries"]:
                    return
                path = f"{folder}/{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    self.folders.append(path)
                    waiting.append(path)
                else:
                    self._take(path, link=entry.is_symlink())
        self.complete = True

    def report(self) -> Json:
        """Return the other changes. What was not looked at was not removed."""
        known = set(self._job["folders"])
        full = {os.path.dirname(path) for path in (*self.files, *self.folders, *self.links)}  # noqa: PTH120
        unseen = (*self.odd, *self.links)
        gone = self._hashes.keys() - self.files
        return {
            "removed": sorted(gone.difference(unseen)) if self.complete else [],
            "removed_folders": sorted(known.difference(self.folders)) if self.complete else [],
            "made_folders": [
                path for path in self.folders if path not in known | full and path == _shown(path)
            ],
            "links": self.links,
            "odd": self.odd,
            "complete": self.complete,
        }

    def _count(self) -> int:
        return len(self.files) + len(self.folders) + len(self.links) + len(self.odd)

    def _take(self, path: str, *, link: bool) -> None:
        if link:
            self.links.append(_shown(path))
        elif self._send(path):
            self.files.add(path)
        else:
            self.odd.append(_shown(path))

    def _send(self, path: str) -> bool:
        """Send a file if it has changed; returns whether it can be kept."""
        most: int = self._job["file_bytes"]
        try:
            name = path.encode()
            handle = os.open(ROOT + path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (OSError, UnicodeEncodeError):
            return False
        with os.fdopen(handle, "rb") as file:
            content = file.read(most + 1) if stat.S_ISREG(os.fstat(handle).st_mode) else None
        if content is None or len(content) > most or len(name) > LONGEST_PATH:
            return False
        if hashlib.sha256(content).hexdigest() == self._hashes.get(path):
            return True
        if len(content) > self._left:
            return False
        self._left -= len(content)
        _send(FILE, PATH_LENGTH.pack(len(name)) + name + content)
        return True


def _shown(path: str) -> str:
    return path.encode("utf-8", "replace").decode()[:1024]


def _send(kind: int, payload: bytes) -> None:
    sys.stdout.buffer.write(FRAME.pack(kind, len(payload)) + payload)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
