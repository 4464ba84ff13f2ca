"""The files that a session starts with: from its capabilities, harness, agent and its own settings."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from perdure.app.context import Services
from perdure.capabilities.registry import Active
from perdure.domain.errors import InvalidInput
from perdure.domain.files import Content, FileLimits, content_of, decoded
from perdure.domain.paths import clean_path
from perdure.domain.sessions import InitialFile
from perdure.domain.times import Micros
from perdure.store.database import Tx
from perdure.store.file_changes import FileWrite, write_files
from perdure.store.files import get_entries
from perdure.store.sessions import SessionRow
from perdure.store.workspaces import hold_for_writing


def checked_file(file: InitialFile, field: str, limit: int = FileLimits().file) -> tuple[str, Content]:
    """Check an initial file; returns its clean path and its content.

    Args:
        field: the name of the field that holds the file, for errors.
        limit: bytes of a file.

    Raises:
        InvalidInput: the path or the base64 is not valid.
        TooLarge: the content is over the limit.
    """
    path = clean_path(file.path, f"{field}.path")
    if path == "/":
        raise InvalidInput(
            f"`{field}.path` must name a file, not the root", code="invalid_path", field=f"{field}.path"
        )
    return path, content_of(decoded(file.content, file.encoding, limit, f"{field}.content"))


def mounts(active: Iterable[Active]) -> tuple[InitialFile, ...]:
    """The files of the active capabilities, made read-only."""
    files = [file for each in active for file in each.capability.files(each.config)]
    return tuple(msgspec.structs.replace(file, is_readonly=True) for file in files)


async def write_initial_files(
    app: Services, tx: Tx, row: SessionRow, layers: list[tuple[InitialFile, ...]], now: Micros
) -> None:
    """Write the layers' files to a new session's workspace; a later layer's file replaces an earlier one's.

    In a shared workspace, existing files are not changed.
    """
    merged: dict[str, FileWrite] = {}
    for layer in layers:
        for index, file in enumerate(layer):
            path, content = checked_file(file, f"initial_files[{index}]", app.file_limits.file)
            merged[path] = FileWrite(path, content, readonly=file.is_readonly)
    if not merged:
        return
    space = await hold_for_writing(tx, row.org_id, row.workspace())
    if space.file_count:
        for path in await get_entries(tx, row.org_id, space.id, merged):
            del merged[path]
    await write_files(tx, space, list(merged.values()), app.file_limits, now)
