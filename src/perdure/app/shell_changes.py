"""What a shell has of a session's files before a command, and what it changes."""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.events import FileWrittenData
from perdure.domain.files import Content


class Snapshot(Struct, frozen=True):
    """The session's files before the command.

    Attributes:
        files: each file's content, by path.
        hashes: each content's hash, by path.
        folders: every folder.
        left_out: the paths of files that are too large for a command, or for which it has no room.
    """

    files: dict[str, bytes]
    hashes: dict[str, str]
    folders: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        """Tell the model which files the command could not see."""
        why = "it is too large for a command, or there are too many large files"
        return [f"{path} was left out: {why}" for path in self.left_out]


class Changes(Struct, frozen=True):
    """A command's changes to the files.

    Attributes:
        made_folders: new empty folders; other folders are implied by their files.
    """

    written: dict[str, Content]
    removed: tuple[str, ...] = ()
    removed_folders: tuple[str, ...] = ()
    made_folders: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.written or self.removed or self.removed_folders or self.made_folders)


class Saved(Struct, frozen=True):
    """The written changes as events, and notes for the model on the changes that failed."""

    events: tuple[FileWrittenData, ...] = ()
    notes: tuple[str, ...] = ()
