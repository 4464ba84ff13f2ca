"""Guards: approval for the calls of a tool that change what later turns do, and not for its others."""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.errors import InvalidInput
from perdure.domain.memories import ROOT
from perdure.domain.messages import JsonValue
from perdure.domain.paths import MOUNT, clean_path, name_of

SKILLS = "/.agents"
"""The folder of skills, which agents take for instructions."""

INSTRUCTIONS = "AGENTS.md"
"""The file of instructions that any folder may have: agents are told to read it before they work there."""


class GuardedFiles(Struct, frozen=True):
    """Files whose text becomes instructions to agents, or is read in other sessions.

    Names are compared without regard to case, because a copy of the files may be on a disk that does so.

    Attributes:
        paths: the files, in normal form. `INSTRUCTIONS` in any folder counts, too.
        folders: everything below these counts.
    """

    paths: frozenset[str] = frozenset()
    folders: tuple[str, ...] = (SKILLS,)

    def has(self, path: str) -> bool:
        """Whether a change at a path, in normal form, changes such files: it may also be a folder of them."""
        plain = without_mount(path).casefold()
        whole = "/" if plain == "/" else f"{plain}/"
        if any(f"{each}/".casefold().startswith(whole) for each in self.folders):
            return True
        if any(plain.startswith(f"{each}/".casefold()) for each in self.folders):
            return True
        own = {without_mount(each).casefold() for each in self.paths}
        return (
            name_of(plain) == INSTRUCTIONS.casefold()
            or plain in own
            or any(each.startswith(whole) for each in own)
        )


class Guard(Struct, frozen=True):
    """The calls of a tool that need approval: those whose argument names such a file.

    Attributes:
        argument: the tool's argument that holds the path.
    """

    argument: str
    files: GuardedFiles

    def covers(self, arguments: JsonValue) -> bool:
        """Whether a call with these arguments needs approval."""
        path = self.path_of(arguments)
        return path is not None and self.files.has(path)

    def path_of(self, arguments: JsonValue) -> str | None:
        """The path that a call names, in normal form; None for one that the tool refuses."""
        path = arguments.get(self.argument) if isinstance(arguments, dict) else None
        if not isinstance(path, str):
            return None
        try:
            return clean_path(path)
        except InvalidInput:
            return None


def why_guarded(path: str) -> str:
    """Why a change at a path in normal form needs approval, for people and models."""
    shared = f"{without_mount(path)}/".casefold().startswith(f"{ROOT}/")
    return (
        "is memory of other sessions as well" if shared else "is instructions to agents in later turns, too"
    )


def without_mount(path: str) -> str:
    """A path in the files: the shell's folder is another name of the root."""
    if path == MOUNT:
        return "/"
    return path.removeprefix(MOUNT) if path.startswith(f"{MOUNT}/") else path
