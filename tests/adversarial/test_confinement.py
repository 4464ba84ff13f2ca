"""Code that escapes from a sandbox's interpreters reaches neither the server nor its data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from perdure.sandbox.confinement import landlock_version

SECRET = "the-master-key-of-all"

SERVER = """
import os, subprocess, sys
from perdure.sandbox.confinement import TEMPORARY, hide_memory, temporary_folder
assert hide_memory()
environment = {TEMPORARY: temporary_folder()}
sys.exit(subprocess.run([sys.executable, "-c", *sys.argv[1:]], env=environment).returncode)
"""

CHILD = """
import json, os, signal, sqlite3, socket, sys, tempfile
from perdure.sandbox.confinement import confine
confine()
parent, data = os.getppid(), sys.argv[1]
def attempt(action):
    try:
        action()
    except OSError as error:
        return type(error).__name__
    return "worked"
def sort():
    database = sqlite3.connect("")
    database.execute("PRAGMA temp_store=FILE"); database.execute("PRAGMA cache_size=-64")
    database.execute("CREATE TABLE t AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE "
                     "x<100000) SELECT x, hex(randomblob(20)) y FROM c")
    assert len(database.execute("SELECT y FROM t ORDER BY y").fetchall()) == 100000
def shell():
    import asyncio
    from perdure.sandbox.shell import ShellJob, run_shell
    command = "seq 3 | tail -1; TZ=Europe/Berlin date -d '2024-03-01 1 day' +%F"
    job = ShellJob(command, {}, (), None, None, 9.0)
    result = asyncio.run(run_shell(job, lambda *_: None)).result
    assert result.stdout == "3\\n2024-03-02\\n", result
print(json.dumps({
    "environment": attempt(lambda: open(f"/proc/{parent}/environ", "rb").read()),
    "memory": attempt(lambda: open(f"/proc/{parent}/mem", "rb").read(1)),
    "own files in proc": attempt(lambda: open("/proc/self/maps").read()),
    "database": attempt(lambda: open(data + "/perdure.db", "rb").read()),
    "key": attempt(lambda: open(data + "/master.key", "rb").read()),
    "list": attempt(lambda: os.listdir(data)),
    "write": attempt(lambda: open(data + "/planted", "w")),
    "link": attempt(lambda: os.link(data + "/master.key", os.environ["SQLITE_TMPDIR"] + "/x")),
    "home": attempt(lambda: os.listdir(os.path.expanduser("~"))),
    "passwords": attempt(lambda: open("/etc/passwd").read()),
    "signal": attempt(lambda: os.kill(parent, 0)),
    "sort": attempt(sort),
    "shell": attempt(shell),
    "names": attempt(lambda: socket.getaddrinfo("localhost", 80)),
}))
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("perdure.db", "master.key"):
        (tmp_path / name).write_text(SECRET)
    return tmp_path


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these protections")
def test_a_sandbox_process_reads_neither_the_servers_memory_nor_its_data(data: Path) -> None:
    environment = {**os.environ, "PERDURE_MASTER_KEY": SECRET, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = f"import sys; sys.path[:] = {sys.path!r}\n{CHILD}"
    done = subprocess.run(
        [sys.executable, "-c", SERVER, child, str(data)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    works = {name for name, outcome in found.items() if outcome == "worked"}
    allowed = {"sort", "shell", "names"}
    if landlock_version() == 0:
        allowed |= set(found) - {"environment", "memory"}
    elif landlock_version() < 6:
        allowed.add("signal")
    assert allowed >= works >= {"sort", "shell", "names"}, (found, done.stderr)
