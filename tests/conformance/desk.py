"""A workspace on a database, and helpers to work on it, for the suites about files."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from perdure.domain.errors import PerdureError
from perdure.domain.files import FileLimits, content_of
from perdure.domain.ids import new_id
from perdure.store.blobs import purge_blobs, read_content
from perdure.store.database import Database, Tx
from perdure.store.file_changes import (
    FileWrite,
    Written,
    copy_path,
    delete_path,
    move_path,
    write_file,
    write_files,
)
from perdure.store.files import FileRow, list_tree, need_file
from perdure.store.workspaces import (
    WorkspaceRow,
    add_workspace,
    get_workspace,
    hold_for_writing,
)

T = TypeVar("T")
ORG, OTHER = new_id("org"), new_id("org")
NOW = 1_700_000_000_000_000
HOUR = 3_600_000_000
LIMITS = FileLimits()


class Desk:
    """A workspace, and helpers to work on it."""

    def __init__(self, database: Database, org_id: str = ORG, limits: FileLimits = LIMITS) -> None:
        self.database = database
        self.org_id = org_id
        self.id = new_id("workspace")
        self.limits = limits
        self.now = NOW

    async def open(self) -> Desk:
        row = WorkspaceRow(self.id, self.org_id, None, self.id, None, "active", 0, 0, NOW, NOW, None)
        await self.database.write(lambda tx: add_workspace(tx, row))
        return self

    async def change(self, work: Callable[[Tx, WorkspaceRow], Awaitable[T]]) -> T:
        async def body(tx: Tx) -> T:
            return await work(tx, await hold_for_writing(tx, self.org_id, self.id))

        return await self.database.write(body)

    async def write(self, path: str, data: bytes | None = b"x", **how: Any) -> Written:
        write = FileWrite(path, None if data is None else content_of(data), **how)
        return await self.change(lambda tx, space: write_file(tx, space, write, self.limits, self.now))

    async def write_all(self, *writes: tuple[str, bytes]) -> list[Written]:
        every = [FileWrite(path, content_of(data)) for path, data in writes]
        return await self.change(lambda tx, space: write_files(tx, space, every, self.limits, self.now))

    async def delete(self, path: str, *, recursive: bool = False, **how: Any) -> int:
        return await self.change(
            lambda tx, space: delete_path(tx, space, path, recursive=recursive, now=self.now, **how)
        )

    async def move(self, source: str, target: str) -> FileRow:
        return await self.change(
            lambda tx, space: move_path(tx, space, source, target, self.limits, self.now)
        )

    async def copy(self, source: str, target: str) -> FileRow:
        return await self.change(
            lambda tx, space: copy_path(tx, space, source, target, self.limits, self.now)
        )

    async def read(self, path: str) -> bytes:
        async def body(tx: Tx) -> bytes:
            row = await need_file(tx, self.org_id, self.id, path)
            return await read_content(tx, self.org_id, row.hash, row.size_bytes)

        return await self.database.read(body)

    async def tree(self, folder: str = "/") -> list[str]:
        """Return all paths, folders with a `/` at the end."""
        rows = await self.database.read(lambda tx: list_tree(tx, self.org_id, self.id, folder))
        return [row.path + "/" * row.is_directory for row in rows]

    async def row(self) -> WorkspaceRow:
        return await self.database.read(lambda tx: get_workspace(tx, self.org_id, self.id))

    async def purge(self, hours: float = 2) -> int:
        before = int(self.now + (hours - 1) * HOUR)
        return (await self.database.write(lambda tx: purge_blobs(tx, before))).gone


async def count(database: Database, table: str) -> int:
    found = await database.read(lambda tx: tx.one(f"SELECT COUNT(*) FROM {table}"))
    assert found is not None
    return int(found[0])


async def refused(kind: type[PerdureError], code: str, attempt: Awaitable[Any]) -> None:
    with pytest.raises(kind) as error:
        await attempt
    assert error.value.code == code
