"""Memories: versioned text files that several sessions share."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType

from perdure.client import routes
from perdure.client.routes import Caller, listed, new_key, path_of
from perdure.domain.errors import PerdureError
from perdure.domain.files import GrepFiles, StatFile
from perdure.domain.memories import (
    CreateMemory,
    CreateMemoryFile,
    Memory,
    MemoryDiff,
    MemoryFile,
    MemoryFileInfo,
    MemoryGrepResult,
    MemoryVersion,
    UpdateMemory,
    UpdateMemoryFile,
)


class _Files(Struct, frozen=True):
    data: tuple[MemoryFileInfo, ...] | UnsetType = UNSET


class _Matches(Struct, frozen=True):
    data: tuple[MemoryGrepResult, ...]


class MemoryMethods(Caller):
    """The client's methods about memories.

    `path` is the path of a file in a memory, with or without the `/` at its beginning.
    """

    async def create_memory(self, name: str, *, description: str | None = None) -> Memory:
        """Create a memory of the organization. Raises Conflict if the name is taken."""
        body = CreateMemory(name, description)
        return await self.call("POST", "/v1/memories", Memory, body=body, once=new_key())

    async def list_memories(
        self, search: str | None = None, *, include_archived: bool = False
    ) -> tuple[Memory, ...]:
        """List the memories that the caller sees, newest first."""
        params = [("search", search), ("include_archived", include_archived or None)]
        return await listed(self, "/v1/memories", Memory, params)

    get_memory = routes.reads("/v1/memories/{}", Memory, "Return a memory.")
    update_memory = routes.updates(
        "/v1/memories/{}",
        UpdateMemory,
        Memory,
        'Change a memory. `status="active"` restores an archived one.',
    )
    sync_memory_now = routes.acts(
        "POST",
        "/v1/memories/{}/sync",
        Memory,
        "Ask to synchronize a memory with its source, which this server always refuses.",
    )

    async def delete_memory(self, memory_id: str, *, purge: bool = False) -> None:
        """Archive a memory; with `purge`, remove an archived one for good."""
        await self.transport.request("DELETE", _memory(memory_id), params=[("purge", purge or None)])

    async def list_memory_files(
        self, memory_id: str, path: str = "/", *, recursive: bool = False
    ) -> tuple[MemoryFileInfo, ...]:
        """List a folder, sorted by path. Raises PerdureError: the path is a file (`not_a_folder`)."""
        params = [("recursive", recursive or None)]
        found = await self.call("GET", _place(memory_id, path), _Files, params=params)
        if found.data is UNSET:
            raise PerdureError(f"{path} is a file: `read_memory_file` returns it", code="not_a_folder")
        return found.data

    async def read_memory_file(self, memory_id: str, path: str) -> MemoryFile:
        """Return a file with its text and hash. Raises NotFound, and BadAnswer for a folder."""
        return await self.call("GET", _place(memory_id, path), MemoryFile)

    async def download_memory_file(self, memory_id: str, path: str) -> bytes:
        """Return a file's bytes."""
        return await self.transport.request("GET", _place(memory_id, "_/download", path))

    async def stat_memory_file(self, memory_id: str, path: str) -> MemoryFileInfo:
        """Return the metadata of a file or a folder."""
        body = StatFile("/" + path.lstrip("/"))
        return await self.call("POST", _place(memory_id, "_/stat"), MemoryFileInfo, body=body)

    async def create_memory_file(
        self, memory_id: str, path: str, content: str = "", *, is_directory: bool = False
    ) -> MemoryFileInfo:
        """Create a file or a folder, with the folders above it. Raises Conflict if the path exists."""
        body = CreateMemoryFile(is_directory=True) if is_directory else CreateMemoryFile(content)
        return await self.call("POST", _place(memory_id, path), MemoryFileInfo, body=body, once=new_key())

    async def update_memory_file(
        self, memory_id: str, path: str, content: str, *, expected_hash: str | None = None
    ) -> MemoryFile:
        """Change the text of a file.

        Args:
            memory_id: the memory.
            path: the file's path.
            content: the new text.
            expected_hash: the hash of the text that you read. If the file has another one by now, nothing is
                written, and this raises ApiError with status 412.
        """
        body = UpdateMemoryFile(content, expected_hash=expected_hash)
        return await self.call("PUT", _place(memory_id, path), MemoryFile, body=body)

    async def write_memory_file(
        self, memory_id: str, path: str, content: str, *, expected_hash: str | None = None
    ) -> MemoryFile:
        """Create a file, or change its text. Arguments and errors are those of `update_memory_file`."""
        try:
            return await self.update_memory_file(memory_id, path, content, expected_hash=expected_hash)
        except PerdureError as error:
            if error.code != "file_not_found" or expected_hash is not None:
                raise
        try:
            await self.create_memory_file(memory_id, path, content)
        except PerdureError as error:
            if error.code != "file_exists":
                raise
            # Somebody else has created it meanwhile.
            return await self.update_memory_file(memory_id, path, content)
        return await self.read_memory_file(memory_id, path)

    async def delete_memory_file(
        self, memory_id: str, path: str, *, recursive: bool = False, expected_hash: str | None = None
    ) -> None:
        """Delete a file or a folder; its versions stay. Raises NotFound."""
        params = [("recursive", recursive or None)]
        headers = {} if expected_hash is None else {"If-Match": f'"{expected_hash}"'}
        await self.transport.request("DELETE", _place(memory_id, path), params=params, headers=headers)

    async def grep_memory(
        self, memory_id: str, pattern: str, path_pattern: str | None = None
    ) -> tuple[MemoryGrepResult, ...]:
        """Find the files with a line that matches a regular expression in RE2 syntax."""
        body = GrepFiles(pattern, path_pattern)
        found = await self.call("POST", _place(memory_id, "_/grep"), _Matches, body=body)
        return found.data

    async def list_memory_versions(
        self, memory_id: str, path: str | None = None, *, before_sequence: int | None = None, limit: int = 100
    ) -> tuple[MemoryVersion, ...]:
        """List versions, newest first: of a memory, or of one path."""
        params = [("path", path), ("before_sequence", before_sequence), ("limit", limit)]
        return await listed(self, f"{_memory(memory_id)}/versions", MemoryVersion, params)

    async def get_memory_version(self, memory_id: str, version_id: str) -> MemoryVersion:
        """Return a version with its content, if that is not redacted."""
        return await self.call("GET", _version(memory_id, version_id), MemoryVersion)

    async def diff_memory_version(
        self, memory_id: str, version_id: str, *, against: str | None = None
    ) -> MemoryDiff:
        """Compare a version with another one; without `against`, with the one before, of the same path."""
        params = [("against", against)]
        return await self.call("GET", f"{_version(memory_id, version_id)}/diff", MemoryDiff, params=params)

    async def redact_memory_version(self, memory_id: str, version_id: str) -> MemoryVersion:
        """Remove the content of a version. Raises Conflict if a file has it now."""
        return await self.call("POST", f"{_version(memory_id, version_id)}/redact", MemoryVersion)


def _memory(memory_id: str) -> str:
    return path_of("/v1/memories/{}", memory_id)


def _version(memory_id: str, version_id: str) -> str:
    return path_of("/v1/memories/{}/versions/{}", memory_id, version_id)


def _place(memory_id: str, *parts: str) -> str:
    names = [name for part in parts for name in part.split("/") if name]
    return path_of("/v1/memories/{}/fs" + "/{}" * len(names), memory_id, *names)
