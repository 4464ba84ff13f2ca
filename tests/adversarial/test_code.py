"""Programs that try to reach the host, the network or each other, or to exhaust resources (bubblewrap)."""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap
import time
from pathlib import Path

import pytest

from perdure.domain.code import CodeJob, CodeResult
from perdure.domain.errors import ToolError
from perdure.sandbox.code_places import Place
from tests import code_places
from tests.code_places import LIMITS, needs_bubblewrap

pytestmark = needs_bubblewrap

TRIES = """\
def tries(*attempts):
    for attempt in attempts:
        try:
            print(attempt.__name__, attempt())
        except Exception as error:
            print("refused", type(error).__name__)
"""


class Forger(Place):
    """A place whose guest sends these bytes, and then hangs."""

    name, program = "forger", "python3"

    def __init__(self, frames: str) -> None:
        super().__init__(LIMITS)
        self._frames = frames

    def command(self, run: str, job: CodeJob, guest: str) -> list[str]:
        send = f"import struct, sys, time; sys.stdout.buffer.write({self._frames}); sys.stdout.flush()"
        return [sys.executable, "-I", "-S", "-c", f"{send}; time.sleep(60)"]


async def run(code: str, seconds: int = 10, files: dict[str, bytes] | None = None) -> CodeResult:
    return await code_places.run(
        code_places.bubblewrap(), TRIES + textwrap.dedent(code), files, seconds=seconds
    )


async def test_no_file_process_or_variable_of_the_host_is_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_MASTER_KEY", "visible-secret")
    result = await run(
        f"""
        import os, pathlib
        print(sorted(os.listdir("/")), sorted(os.listdir("/etc")), sorted(os.listdir("/workspace")))
        print([name for name in os.listdir("/proc") if name.isdigit() and int(name) > 99])
        for name in ("1", "2", "self"):
            tries(lambda: pathlib.Path("/proc", name, "environ").read_bytes())
        for path in ("/etc/passwd", "/etc/shadow", "/root", "/home", "/var/run/docker.sock", "/run", "/sys",
                     "/dev/sda", "/dev/mem", "/proc/{os.getpid()}/cmdline", "{Path.cwd()}"):
            print(path, "visible" if os.path.exists(path) else "absent")
        """
    )
    assert result.exit_code == 0, result.stderr
    first, processes, *rest = result.stdout.splitlines()
    assert "'root'" not in first
    assert "'home'" not in first
    assert processes == "[]"
    assert "visible-secret" not in result.stdout
    assert not [line for line in rest if line.endswith(" visible")]


async def test_nothing_outside_its_own_folders_can_be_written() -> None:
    result = await run(
        """
        import os, sys
        for path in ("/x", "/usr/lib/x", "/etc/x", "/dev/x", "/proc/sys/kernel/hostname",
                     "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger",
                     os.path.dirname(os.__file__) + "/os.py", sys.executable):
            try:
                open(path, "ab")
                print("opened", path)
            except OSError:
                pass
        """
    )
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


async def test_there_is_no_network_not_even_to_the_host_and_its_metadata() -> None:
    result = await run(
        """
        import socket
        for host in ("169.254.169.254", "127.0.0.1", "::1", "10.0.0.1", "1.1.1.1", "example.com"):
            tries(lambda: socket.create_connection((host, 80), 2))
        print([name for _, name in socket.if_nameindex()])
        tries(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1), lambda: socket.socket(17, 3, 3))
        """
    )
    assert result.stdout.count("refused") == 8, result.stdout
    assert "['lo']" in result.stdout


async def test_it_gains_no_rights() -> None:
    result = await run(
        """
        import ctypes, os
        libc = ctypes.CDLL(None)
        status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
        print(os.getuid(), status["NoNewPrivs"].strip(), status["CapEff"].strip(), status["CapPrm"].strip())
        print([libc.unshare(flag) for flag in (0x10000000, 0x20000, 0x40000000)])
        print(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None), libc.chroot(b"/tmp"),
              libc.sethostname(b"x", 1))
        tries(lambda: os.setuid(0), lambda: os.kill(1, 0) or os.nice(-10))
        """
    )
    uid, privileges, effective, permitted = result.stdout.splitlines()[0].split()
    assert (uid, privileges, int(effective, 16), int(permitted, 16)) == ("1000", "1", 0, 0)
    assert result.stdout.splitlines()[1:3] == ["[-1, -1, -1]", "-1 -1 -1"]


async def test_it_takes_over_nothing_that_has_no_limits() -> None:
    result = await run(
        """
        import ctypes, os, socket
        libc, guest = ctypes.CDLL(None, use_errno=True), os.getppid()
        for name in ("mem", "fd/1", "environ"):
            tries(lambda: open(f"/proc/{guest}/{name}", "r+b" if name == "mem" else "rb"))
        # The host of a virtual machine, outside any network namespace, and 32-bit numbers of calls.
        tries(lambda: socket.socket(40, socket.SOCK_STREAM), lambda: os.memfd_create("x"))
        print([libc.shmget(0, 1 << 20, 0o1600), libc.ptrace(16, guest, 0, 0), libc.syscall(425, 1, 0)])
        tries(lambda: socket.socketpair() and "fine", lambda: socket.socket().close() or "fine")
        """
    )
    assert result.stdout.count("refused") == 5, result.stdout
    assert "[-1, -1, -1]" in result.stdout
    assert result.stdout.count("fine") == 2


async def test_memory_that_processes_share_counts_once() -> None:
    result = await run(
        """
        import os, time
        from multiprocessing.shared_memory import SharedMemory
        shared = SharedMemory(create=True, size=50 << 20)
        shared.buf[:] = b"x" * (50 << 20)
        children = []
        for _ in range(8):
            if not (child := os.fork()):
                bytes(shared.buf[::4096])
                time.sleep(1)
                os._exit(0)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)
        shared.unlink()
        print("fine")
        """
    )
    assert (result.stdout, result.stopped) == ("fine\n", None)


THREADS = """
import threading, time
while True:
    try:
        threading.Thread(target=time.sleep, args=(60,)).start()
    except RuntimeError:
        time.sleep(0.1)
"""
MEMORY = """
import os, time
for _ in range(20):
    if os.fork() == 0:
        x = bytearray(60 << 20)
        break
time.sleep(60)
"""
SHARED = """
import mmap, os, time
for _ in range(20):
    if os.fork() == 0:
        held = mmap.mmap(-1, 60 << 20)
        held.write(bytes(60 << 20))
        break
time.sleep(60)
"""
UNNAMED = "import os\nfor n in range(60): os.write(os.memfd_create('x'), bytes(16 << 20))"
BOMBS = {
    "forks": ("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", "time"),
    "threads": (THREADS, "time"),
    "memory of one process": ("x = bytearray(4 << 30)", None),
    "memory of many processes": (MEMORY, "memory"),
    "memory that processes could share": (SHARED, "memory"),
    "memory in files without a name": (UNNAMED, None),
    "a gigabyte in one file": ("open('big', 'wb').write(bytes(1 << 30))", None),
    "a gigabyte in many files": ("for n in range(1000): open(f'b{n}', 'wb').write(bytes(1 << 20))", None),
    "empty files": ("n = 0\nwhile True:\n    open(str(n), 'w'); n += 1", "files"),
    "shared memory": ("f = open('/dev/shm/x', 'wb')\nfor _ in range(1000): f.write(bytes(1 << 20))", None),
    "endless output": ("while True: print('x' * 1000)", "time"),
    "output of a child": ("import os\nif os.fork():\n    raise SystemExit\nwhile True: print('x')", None),
}


@pytest.mark.parametrize("bomb", BOMBS)
async def test_a_bomb_ends_its_own_program_only(bomb: str) -> None:
    code, stopped = BOMBS[bomb]
    begun = time.monotonic()
    result = await run(code, seconds=2 if stopped == "time" else 8)
    assert result.stopped == stopped, result
    assert len(result.stdout) <= LIMITS.output_bytes
    assert sum(map(len, result.written.values())) <= LIMITS.total_bytes
    assert bomb == "output of a child" or result.exit_code != 0
    assert time.monotonic() - begun < 25


async def test_odd_files_are_named_and_never_followed() -> None:
    result = await run(
        r"""
        import os, socket
        os.symlink("/etc", "link"); os.symlink("/workspace/../proc/1/environ", "file")
        os.symlink(".", "loop")
        os.mkfifo("pipe"); socket.socket(socket.AF_UNIX).bind("socket")
        open(b"bad\xff", "w"); open("new\nline", "w"); open("a\u202eb", "w"); open("x" * 255, "w")
        os.remove("replaced"); os.symlink("/dev/zero", "replaced")
        path = b"."
        for _ in range(60):
            os.mkdir(b"d" * 200); os.chdir(b"d" * 200)
        open("deep", "w").write("x")
        """,
        files={"/replaced": b"1", "/kept": b"2"},
    )
    assert result.exit_code == 0, result.stderr
    assert set(result.links) == {"/link", "/file", "/loop", "/replaced"}
    assert {"/pipe", "/socket", "/bad?"} <= set(result.odd)
    assert result.removed == ()
    assert set(result.written) == {"/new\nline", "/a\u202eb", "/" + "x" * 255}


MANY_PATHS = (
    """struct.pack("!BI", 4, 100030) + b'{"exit_code":0,"removed":[""' + b',"/a"' * 20_000 + b"]}" """
)


@pytest.mark.parametrize(
    "frames",
    [
        "struct.pack('!BI', 1, 1 << 31)",
        "struct.pack('!BI', 9, 1) + b'x'",
        "struct.pack('!BI', 3, 1) + b'x'",
        "struct.pack('!BI', 4, 2) + b'[]'",
        "struct.pack('!BI', 4, 200_000) + b'{\"a\":' * 40_000",
        "struct.pack('!BI', 1, 0) * 100_000",
        "(struct.pack('!BI', 1, 1) + b'x') * 100_000",
        "(struct.pack('!BI', 3, 4) + bytes((0, 2)) + b'/x') * 100_000",
        MANY_PATHS,
    ],
)
async def test_a_program_that_speaks_for_its_guest_only_loses_its_own_result(frames: str) -> None:
    """A program may get hold of its guest's pipe, so here a process sends what no guest sends."""
    begun = time.monotonic()
    with pytest.raises(ToolError, match="ended the place"):
        await code_places.run(Forger(frames), "")
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    "code",
    [
        "import os, signal; os.kill(os.getppid(), signal.SIGKILL)",
        "import os, signal; os.kill(1, signal.SIGKILL); os.kill(2, signal.SIGTERM)",
    ],
)
async def test_a_program_that_kills_its_parent_ends_its_own_place(code: str) -> None:
    with pytest.raises(ToolError, match="ended the place"):
        await run(code)
    assert (await run("print('fine')")).stdout == "fine\n"


async def test_a_cancelled_program_is_gone() -> None:
    shown: list[tuple[str, str]] = []
    code = "import os, time\nos.fork()\nprint('here', flush=True)\ntime.sleep(60)"
    task = asyncio.create_task(code_places.run(code_places.bubblewrap(), code, shown=shown, seconds=60))
    async with asyncio.timeout(20):
        while not shown:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while code_places.descendants(os.getpid(), "bwrap"):
            await asyncio.sleep(0.01)
