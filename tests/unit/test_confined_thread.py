"""What confinement takes from a thread: the kernel confines threads, so the test's process stays as it is."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from perdure.sandbox import confinement
from perdure.sandbox.confinement import TEMPORARY, confine, hide_memory, landlock_version, temporary_folder

LANDLOCK = pytest.mark.skipif(landlock_version() == 0, reason="the kernel has no Landlock")
DUMPABLE = 4


def in_thread(*actions: Callable[[], object]) -> list[str]:
    """What becomes of each action, in a thread that ends afterwards: `worked`, or its error's name."""
    outcomes = []

    def run() -> None:
        for action in actions:
            try:
                action()
            except OSError as error:
                outcomes.append(type(error).__name__)
            else:
                outcomes.append("worked")

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return outcomes


@pytest.fixture(autouse=True)
def _debuggable() -> object:
    """Undo after each test what is true of the whole process."""
    yield
    ctypes.CDLL(None).prctl(DUMPABLE, 1, 0, 0, 0)


@LANDLOCK
def test_a_confined_thread_reads_code_and_writes_to_its_own_folder_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, secret, certificate = tmp_path / "own", tmp_path / "secret", tmp_path / "certificate"
    own.mkdir()
    secret.write_text("key")
    certificate.write_text("public")
    monkeypatch.setenv(TEMPORARY, str(own))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    outcomes = in_thread(
        confine,
        secret.read_text,
        lambda: list(tmp_path.iterdir()),
        lambda: Path("/proc/self/environ").read_bytes(),
        lambda: certificate.write_text("forged"),
        lambda: os.kill(os.getppid(), 0) if landlock_version() >= 6 else secret.read_text(),
        certificate.read_text,
        Path(confinement.__file__).read_text,
        lambda: (own / "sort").write_text("rows"),
    )
    assert outcomes == ["worked", *["PermissionError"] * 5, *["worked"] * 3]
    assert (secret.read_text(), certificate.read_text()) == ("key", "public")
    assert (own / "sort").read_text() == "rows"


@LANDLOCK
def test_a_thread_without_a_folder_of_its_own_writes_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TEMPORARY, raising=False)
    outcomes = in_thread(confine, (tmp_path / "planted").touch, Path("/dev/null").read_bytes)
    assert outcomes == ["worked", "PermissionError", "worked"]


def test_another_system_has_no_protection_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert landlock_version() == 0
    assert hide_memory() is False
    assert in_thread(confine, (tmp_path / "file").touch) == ["worked", "worked"]


def test_the_folder_for_temporary_files_is_this_users_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    folder = temporary_folder()
    assert folder == temporary_folder() == str(tmp_path / f"perdure-sandbox-{os.getuid()}")
    assert Path(folder).stat().st_mode & 0o777 == 0o700
    Path(folder).chmod(0o755)
    assert temporary_folder() is None
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    assert temporary_folder() is None


LIMITS = """
import json, resource
from perdure.sandbox import child
child.limit()
names = ("RLIMIT_AS", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_CORE")
print(json.dumps([resource.getrlimit(getattr(resource, name)) for name in names]))
"""


def test_a_sandbox_process_cannot_raise_its_limits_again() -> None:
    done = subprocess.run([sys.executable, "-c", LIMITS], capture_output=True, check=True)
    assert done.stdout == b"[[1610612736, 1610612736], [268435456, 268435456], [64, 64], [0, 0]]\n"
