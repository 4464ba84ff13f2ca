"""Files of a session or a workspace: bytes in and out, folders, search."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from msgspec import UNSET, Struct, UnsetType

from perdure.client.routes import Caller, new_key, path_of
from perdure.client.transport import Streamed
from perdure.domain.errors import PerdureError
from perdure.domain.files import (
    LONG,
    CopyFile,
    CreateFile,
    DeletedFile,
    Encoding,
    FileInfo,
    FileStat,
    GrepFiles,
    GrepResults,
    MoveFile,
    SessionFile,
    StatFile,
    UpdateFile,
    encoded,
    is_text,
)


class _Folder(Struct, frozen=True):
    """A list of files; a file itself has no `data`."""

    data: tuple[FileInfo, ...] | UnsetType = UNSET


class FileMethods(Caller):
    """The client's methods about files.

    `owner` is the id of a session or of a workspace. `path` is the path of a file or a folder, with or
    without the `/` at its beginning.
    """

    async def read_file(self, owner: str, path: str) -> bytes:
        """Return a file's content.

        Raises:
            NotFound: there is no such file (`file_not_found`).
            ApiError: the path is a folder (`is_a_folder`).
        """
        return await self.transport.request("GET", _place(owner, "_/download", path))

    async def write_file(
        self,
        owner: str,
        path: str,
        content: bytes | str,
        *,
        is_readonly: bool | None = None,
        expected_hash: str | None = None,
    ) -> SessionFile:
        """Create a file, or replace its content. Creates missing folders.

        Args:
            owner: the id of the session or the workspace.
            path: the file's path.
            content: bytes; a text is stored in UTF-8.
            is_readonly: whether to protect the file from changes, moves and deletion.
            expected_hash: the SHA-256 of the content that you read. If the file has another content by now,
                or is gone, nothing is written, and this raises ApiError with status 412 or 404.
        """
        text, encoding = await _body_of(content)
        change = UpdateFile(text, encoding, is_readonly, expected_hash)
        try:
            return await self.call("PUT", _place(owner, path), SessionFile, body=change)
        except PerdureError as error:
            if error.code != "file_not_found" or expected_hash is not None:
                raise
        try:
            return await self._create(owner, path, CreateFile(text, encoding, None, is_readonly))
        except PerdureError as error:
            if error.code != "file_exists":
                raise
        # Somebody else has created it meanwhile.
        return await self.call("PUT", _place(owner, path), SessionFile, body=change)

    async def upload_file(
        self,
        owner: str,
        path: str,
        source: bytes | Path | AsyncIterator[bytes],
        *,
        expected_hash: str | None = None,
    ) -> SessionFile:
        """Create a file, or replace its content, with bytes as they are. Creates missing folders.

        This takes files of up to 100 MB, or of the server's limit. A local file is read while it is sent.

        Args:
            owner: the id of the session or the workspace.
            path: the file's path.
            source: the content, the path of a local file, or an iterator of pieces. An iterator gives each
                piece once, so such an upload is not repeated after a failure.
            expected_hash: the SHA-256 of the content that you read. If the file has another content by now,
                or is gone, nothing is written, and this raises ApiError with status 412.

        Raises:
            OSError: the local file cannot be read.
        """
        if isinstance(source, bytes):
            body = Streamed(lambda: _pieces_of(source), len(source))
        elif not isinstance(source, Path):
            body = Streamed(lambda: source, None)
        else:
            size = (await asyncio.to_thread(source.stat)).st_size
            body = Streamed(lambda: _pieces_in(source, size), size)
        return await self.call("PUT", _place(owner, path), SessionFile, body=body, if_match=expected_hash)

    def download_file(self, owner: str, path: str) -> AsyncIterator[bytes]:
        """Read a file piece by piece, so that one of any size takes little memory.

        If the connection breaks, the download goes on where it ended.

        Raises:
            NotFound: there is no such file (`file_not_found`).
            ApiError: the path is a folder (`is_a_folder`), or the file has changed since the download began
                (status 412).
        """
        return self.transport.download(_place(owner, "_/download", path))

    async def create_file(
        self, owner: str, path: str, content: bytes | str = b"", *, is_readonly: bool | None = None
    ) -> SessionFile:
        """Create a file. Creates missing folders. Raises Conflict if the path exists."""
        text, encoding = await _body_of(content)
        return await self._create(owner, path, CreateFile(text, encoding, None, is_readonly))

    async def create_folder(self, owner: str, path: str) -> SessionFile:
        """Create a folder, with the folders above it. Raises Conflict if the path exists."""
        return await self._create(owner, path, CreateFile(is_directory=True))

    async def _create(self, owner: str, path: str, body: CreateFile) -> SessionFile:
        return await self.call("POST", _place(owner, path), SessionFile, body=body, once=new_key())

    async def protect_file(self, owner: str, path: str, *, is_readonly: bool = True) -> SessionFile:
        """Protect a file from changes, moves and deletion, or end its protection."""
        body = UpdateFile(is_readonly=is_readonly)
        return await self.call("PUT", _place(owner, path), SessionFile, body=body)

    async def list_files(
        self, owner: str, path: str = "/", *, recursive: bool = False
    ) -> tuple[FileInfo, ...]:
        """List a folder, sorted by path; with `recursive`, its subfolders as well.

        Raises:
            PerdureError: the path is a file (`not_a_folder`).
        """
        params = [("recursive", recursive or None)]
        folder = await self.call("GET", _place(owner, path), _Folder, params=params)
        if folder.data is UNSET:
            raise PerdureError(f"{path} is a file: `read_file` returns its content", code="not_a_folder")
        return folder.data

    async def stat_file(self, owner: str, path: str) -> FileStat:
        """Return the metadata of a file or a folder: size, hash, times."""
        return await self.call("POST", _place(owner, "_/stat"), FileStat, body=StatFile(_absolute(path)))

    async def copy_file(self, owner: str, source: str, target: str) -> SessionFile:
        """Copy a file, or a folder with its contents. Raises Conflict if the target exists."""
        body = CopyFile(_absolute(source), _absolute(target))
        return await self.call("POST", _place(owner, "_/copy"), SessionFile, body=body, once=new_key())

    async def move_file(self, owner: str, source: str, target: str) -> SessionFile:
        """Move a file, or a folder with its contents. Raises Conflict if the target exists."""
        body = MoveFile(_absolute(source), _absolute(target))
        return await self.call("POST", _place(owner, "_/move"), SessionFile, body=body)

    async def delete_file(
        self, owner: str, path: str, *, recursive: bool = False, expected_hash: str | None = None
    ) -> bool:
        """Delete a file or a folder, and return whether there was one.

        Args:
            owner: the id of the session or the workspace.
            path: the path.
            recursive: delete a folder together with everything in it.
            expected_hash: the SHA-256 of the content that you read. Another content is not deleted, and this
                raises ApiError with status 412.
        """
        params = [("recursive", recursive or None)]
        deleted = await self.call(
            "DELETE", _place(owner, path), DeletedFile, params=params, if_match=expected_hash
        )
        return deleted.deleted

    async def grep_files(self, owner: str, pattern: str, path_pattern: str | None = None) -> GrepResults:
        """Search the contents of text files.

        Args:
            owner: the id of the session or the workspace.
            pattern: a regular expression in RE2 syntax, which is matched line by line.
            path_pattern: a glob (`**/*.md`) that the paths must match.
        """
        body = GrepFiles(pattern, path_pattern)
        return await self.call("POST", _place(owner, "_/grep"), GrepResults, body=body)


PIECE = 256 * 1024
"""Bytes of an upload that are read and sent at a time."""


async def _pieces_of(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), PIECE):
        yield content[start : start + PIECE]


async def _pieces_in(path: Path, size: int) -> AsyncIterator[bytes]:
    """Read `size` bytes of a local file: those that it had when the upload began."""
    with await asyncio.to_thread(path.open, "rb") as file:
        while size > 0 and (piece := await asyncio.to_thread(file.read, min(PIECE, size))):
            size -= len(piece)
            yield piece


async def _body_of(content: bytes | str) -> tuple[str, Encoding]:
    """Encode a content for JSON; a long one in a thread, because the event loop would stand still."""
    if isinstance(content, str):
        return content, "text"
    return await asyncio.to_thread(_encode, content) if len(content) > LONG else _encode(content)


def _encode(content: bytes) -> tuple[str, Encoding]:
    text = is_text(content)
    return encoded(content, text), "text" if text else "base64"


def _absolute(path: str) -> str:
    return "/" + path.lstrip("/")


def _place(owner: str, *parts: str) -> str:
    """The path of a route of files: below the session or the workspace that owns them."""
    kind = "sessions" if owner.startswith("session_") else "workspaces"
    names = [name for part in parts for name in part.split("/") if name]
    return path_of(f"/v1/{kind}/{{}}/fs" + "/{}" * len(names), owner, *names)
