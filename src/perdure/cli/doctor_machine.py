"""What `perdure doctor` checks of the machine: open files, sandbox, code interpreter, data folder."""

from __future__ import annotations

import os
import resource
import shutil
import stat

from perdure.cli.finding import Finding
from perdure.domain.code import CodeJob
from perdure.domain.errors import PerdureError
from perdure.sandbox.arguments import ArgumentsJob, Checked
from perdure.sandbox.confinement import landlock_version
from perdure.sandbox.pool import Sandbox
from perdure.settings import Settings

FEW_FILES = 4_096
"""Open files below which a busy server may refuse connections: each follower needs one."""
LITTLE_DISK, NO_DISK = 1 << 30, 64 << 20
"""Free bytes below which there is a warning, and a failure."""
SECONDS = 20.0
"""Seconds that a job in the sandbox may take."""


async def check_machine(settings: Settings) -> list[Finding]:
    """Check what the machine offers to a server with these settings."""
    machine = [_files(settings), _folder(settings), _disk(settings)]
    return [*machine, await _sandbox(), _confinement(), await _code(settings)]


def _files(settings: Settings) -> Finding:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= settings.max_connections + 1_000:
        shown = "no limit" if hard == resource.RLIM_INFINITY else str(hard)
        return Finding("open files", "ok", f"the limit is {shown}")
    detail = f"the limit is {hard}, and PERDURE_MAX_CONNECTIONS is {settings.max_connections}"
    advice = "Raise it: `ulimit -Hn 65536`, LimitNOFILE= in systemd, --ulimit nofile=65536 in Docker."
    return Finding(
        "open files", "warn" if hard < FEW_FILES else "ok", detail, advice if hard < FEW_FILES else ""
    )


def _folder(settings: Settings) -> Finding:
    folder = settings.data_folder
    try:
        about = folder.lstat()
    except FileNotFoundError:
        return Finding("data folder", "ok", f"{folder} does not exist: the server makes it")
    except OSError as error:
        return Finding(
            "data folder", "fail", f"{folder}: {error.strerror}", "Let the server's user enter it."
        )
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return Finding(
            "data folder", "fail", f"{folder} cannot be written", "Make the server's user its owner."
        )
    if stat.S_ISDIR(about.st_mode) and about.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return Finding(
            "data folder",
            "warn",
            f"others can enter {folder}, which holds the master key",
            f"`chmod 700 {folder}`; the server does so itself if the folder holds nothing else.",
        )
    return Finding("data folder", "ok", f"{folder} is the server's own")


def _disk(settings: Settings) -> Finding:
    place = settings.data_folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    detail = f"{free / (1 << 30):.1f} GB are free at {place}"
    advice = "Free some space: without it, turns wait and requests get a 503."
    if free < NO_DISK:
        return Finding("disk", "fail", detail, advice)
    return Finding("disk", "warn", detail, advice) if free < LITTLE_DISK else Finding("disk", "ok", detail)


async def _sandbox() -> Finding:
    sandbox = Sandbox()
    try:
        async with sandbox.slot((), 0):
            await sandbox.run(ArgumentsJob(b'{"type":"integer"}', b"1", "value"), Checked, SECONDS)
        return Finding("sandbox", "ok", "a process for tools has started and worked")
    except PerdureError as error:
        return Finding(
            "sandbox",
            "fail",
            error.message,
            "Tools such as bash need it. Check the limits of processes and memory, and noexec on /tmp.",
        )
    finally:
        await sandbox.close()


def _confinement() -> Finding:
    version = landlock_version()
    if version:
        return Finding("confinement", "ok", f"Landlock {version} keeps sandbox processes to their own files")
    return Finding(
        "confinement",
        "warn",
        "this system has no Landlock: sandbox processes could read the server user's files",
        "Use Linux 5.13 or newer with Landlock enabled, or a user with no other files.",
    )


async def _code(settings: Settings) -> Finding:
    from perdure.wiring import code_back_end

    if settings.code_interpreter == "off":
        return Finding("code interpreter", "skip", "PERDURE_CODE_INTERPRETER is off")
    advice = "Correct PERDURE_CODE_INTERPRETER, or set it to off."
    try:
        place = code_back_end(settings)
        if place is None:
            raise AssertionError("it is not off")
        job = CodeJob("print(6 * 7)", {}, (), 10, "perdure-doctor")
        said: list[str] = []
        result = await place.run(job, lambda _stream, text: said.append(text))
    except PerdureError as error:
        return Finding("code interpreter", "fail", error.message, advice)
    if result.exit_code or "42" not in "".join(said):
        return Finding(
            "code interpreter", "fail", f"{settings.code_interpreter[:40]} gave a wrong answer", advice
        )
    return Finding("code interpreter", "ok", f"{settings.code_interpreter[:40]} has run a program")
