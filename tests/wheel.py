"""Build this tree's wheel, and install it into virtual environments from the package registry."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKED = re.compile(r"^[a-z0-9-]+==[^\\\n]+", re.MULTILINE)


def build_wheel(folder: Path) -> Path:
    """Build the wheel into this folder; return its path."""
    command = (sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder)
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


class Environment:
    """An empty virtual environment, even without pip."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "venv" / "bin"
        subprocess.run((sys.executable, "-m", "venv", "--without-pip", folder / "venv"), check=True)

    @property
    def packages(self) -> Path:
        """The folder into which packages are installed."""
        (found,) = (self.folder / "venv" / "lib").glob("python*/site-packages")
        return found

    @property
    def size(self) -> int:
        """The size of all installed files in bytes, compiled modules included."""
        return sum(path.stat().st_size for path in self.packages.rglob("*") if path.is_file())

    def install(self, wheel: Path, extras: str = "") -> None:
        """Install the wheel and its locked dependencies, so that new releases cannot break a test."""
        constraints = self.folder / "constraints.txt"
        lines = LOCKED.findall((ROOT / "requirements.lock").read_text("utf-8"))
        constraints.write_text("\n".join(line.strip() for line in lines), "utf-8")
        done = subprocess.run(
            (
                *(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"),
                *(
                    "--python",
                    self.bin / "python",
                    "install",
                    "--constraint",
                    constraints,
                    f"{wheel}{extras}",
                ),
            ),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a program of this environment to its end."""
        return subprocess.run(
            (self.bin / command[0], *command[1:]),
            cwd=self.folder,
            env={"PATH": str(self.bin), **env},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
