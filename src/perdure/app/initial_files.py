"""The files that a session starts with."""

from __future__ import annotations

import base64
import binascii

from perdure.domain.errors import InvalidInput
from perdure.domain.paths import clean_path
from perdure.domain.sessions import InitialFile
from perdure.domain.times import Micros
from perdure.store.database import Tx
from perdure.store.files import put_file
from perdure.store.sessions import SessionRow


def content_of(file: InitialFile, field: str) -> tuple[str, bytes]:
    """The normal path and the bytes of a file that a layer brings.

    Raises:
        InvalidInput: the path or the base64 is not valid.
    """
    path = clean_path(file.path)
    if path is None or path == "/":
        raise InvalidInput(f"`{field}.path` is not a valid file path", field=field)
    if file.encoding == "text":
        return path, file.content.encode()
    try:
        return path, base64.b64decode(file.content, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(f"`{field}.content` is not valid base64", field=field) from None


async def write_initial_files(tx: Tx, row: SessionRow, layers: list[tuple[InitialFile, ...]], now: Micros) -> None:
    """Write the files that the layers bring into a new session, a later layer's over an earlier one's."""
    merged: dict[str, tuple[InitialFile, bytes]] = {}
    for layer in layers:
        for index, file in enumerate(layer):
            path, content = content_of(file, f"initial_files[{index}]")
            merged[path] = (file, content)
    for path, (file, content) in merged.items():
        await put_file(tx, row.org_id, row.id, path, content, is_text=file.encoding == "text", readonly=file.is_readonly, now=now)
