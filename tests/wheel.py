"""The wheel of this tree, and virtual environments that it is installed into from the package registry."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKED = re.compile(r"^[a-z0-9-]+==[^\\\n]+", re.MULTILINE)


def build_wheel(folder: Path) -> Path:
    """The wheel, in this folder."""
    command = (sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder)
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


class Environment:
    """A virtual environment that has nothing but what is installed into it, not even pip."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "venv" / "bin"
        subprocess.run((sys.executable, "-m", "venv", "--without-pip", folder / "venv"), check=True)

    @property
    def packages(self) -> Path:
        """The folder that packages are installed into."""
        (found,) = (self.folder / "venv" / "lib").glob("python*/site-packages")
        return found

    @property
    def size(self) -> int:
        """Bytes of everything that is installed, compiled modules included."""
        return sum(path.stat().st_size for path in self.packages.rglob("*") if path.is_file())

    def install(self, wheel: Path, extras: str = "") -> None:
        """Install the wheel, and what it needs in the locked versions: no later release breaks a test."""
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
