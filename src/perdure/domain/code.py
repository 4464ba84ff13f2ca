"""Code that a model wrote, and the port of the places that run it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

MAX_ENTRIES = 10_000
"""Files and folders that a program may leave, together."""


class CodeLimits(Struct, frozen=True):
    """What a program may use.

    Attributes:
        seconds: the most that a call may ask for.
        memory_bytes: memory of all its processes together, without its files.
        output_bytes: bytes of its output that are kept.
        file_bytes, total_bytes: bytes of one file, and of all files, that it may leave.
    """

    seconds: int = 120
    memory_bytes: int = 512 << 20
    processes: int = 32
    output_bytes: int = 256 << 10
    file_bytes: int = 10 << 20
    total_bytes: int = 100 << 20
    entries: int = MAX_ENTRIES


class CodeJob(Struct, frozen=True):
    """A program and the files that it sees.

    Attributes:
        files, folders: by their absolute paths in the session; each folder comes after its parent.
        key: identifies the run towards other services.
        network: whether it may use the network that the operator has configured.
    """

    code: str
    files: dict[str, bytes]
    folders: tuple[str, ...]
    seconds: int
    key: str
    network: bool = False


class CodeResult(Struct, frozen=True):
    """What a program did.

    Attributes:
        stopped: the limit that ended it: `time`, `memory` or `files`.
        truncated: whether it wrote more output than is kept.
        written: files that are new or have changed.
        links: links that it left, which are not kept.
        odd: what else it left that cannot be kept: pipes, files that are too large, names that are not text.
        complete: False if it left too many files, so that not all were looked at.
    """

    exit_code: int
    stdout: str = ""
    stderr: str = ""
    stopped: str | None = None
    truncated: bool = False
    written: dict[str, bytes] = {}
    removed: tuple[str, ...] = ()
    removed_folders: tuple[str, ...] = ()
    made_folders: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()
    complete: bool = True


class CodeBackEnd(Protocol):
    """A place that runs programs, isolated from this server and from each other."""

    @property
    def limits(self) -> CodeLimits: ...

    @property
    def has_network(self) -> bool:
        """Whether programs may be given a network."""
        ...

    async def run(self, job: CodeJob, show: Callable[[str, str], None]) -> CodeResult:
        """Run a program. If the caller is cancelled, it is killed.

        Args:
            show: receives the stream's name and the output while it runs, if the back end can.

        Raises:
            ToolError: the back end failed.
        """
        ...
