"""The releases whose databases are stored, and their paths. Each release adds a line here, and the files that
it builds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.deferring import installed

Engine = Literal["sqlite", "postgres"]
ENGINES: tuple[Engine, ...] = ("sqlite", "postgres")
FOLDER = Path(__file__).parent / "databases"


@dataclass(frozen=True)
class Release:
    """A version and its commit, because a copy of the repository may have no tags."""

    version: str
    commit: str

    @property
    def number(self) -> tuple[int, ...]:
        return number_of(self.version)


RELEASES = (
    Release("0.1.0", "d3c9854f5177c87678258bcf3cfa7d6982ea35ce"),
    Release("0.2.0", "07193912bdc918670c00bf6c8abff61558e5a7f5"),
)


def tools_for(release: Release, folder: Path) -> dict[str, str]:
    """Install the tools that defer their results; returns the environment of servers on its databases.

    Releases before 0.2.0 know no such tools.
    """
    return installed(folder) if release.number >= (0, 2, 0) else {}


def number_of(version: str) -> tuple[int, ...]:
    """Return a version as numbers that can be compared."""
    return tuple(map(int, version.split(".")))


def archive_of(release: Release, engine: Engine) -> Path:
    """Return the path of the compressed database."""
    return FOLDER / f"{release.version}-{engine}.tar.xz"


def manifest_of(release: Release, engine: Engine) -> Path:
    """Return the path of the manifest: the database's states, and what must be true at the end."""
    return FOLDER / f"{release.version}-{engine}.json"
