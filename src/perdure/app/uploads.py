"""Files that arrive as they are, of any size: stored while they arrive, and visible once they are whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

from msgspec import Struct

from perdure.app import memory_files
from perdure.app.context import App, Scope, Services
from perdure.app.file_access import At, OfSession, sized
from perdure.app.files import changing, changing_memory, describe
from perdure.app.mounted_files import Held, mounts_for, writable_mount, write_one
from perdure.app.session_mounts import with_mounts
from perdure.domain.accounts import Caller
from perdure.domain.errors import PerdureError, TooLarge
from perdure.domain.events import FileWrittenData
from perdure.domain.files import Content, Measure, SessionFile, Uploaded, content_of, too_large
from perdure.domain.ids import OrgId, SessionId
from perdure.domain.memories import LIMITS, Mounts
from perdure.domain.paths import clean_path
from perdure.domain.texts import size_text
from perdure.store import file_changes as changes
from perdure.store.blobs import PART
from perdure.store.database import Tx
from perdure.store.sessions import get_session
from perdure.store.uploads import KEY, add_parts, drop_upload, split
from perdure.store.workspaces import WorkspaceRow, get_workspace, need_active

BATCH = 4 * PART
"""Bytes that are held of a file that arrives, and stored in one transaction."""


class Put(Struct, frozen=True):
    """A file that was put, and whether that created it."""

    file: SessionFile
    created: bool


async def put_file(
    app: App,
    caller: Caller,
    at: At,
    path: str,
    body: AsyncIterator[bytes],
    size: int | None,
    if_match: frozenset[str] | None,
) -> Put:
    """Create or replace a file with the bytes of `body`.

    Args:
        body: raises an error unless it ends with the file's last byte.
        size: the file's size in bytes, if it is known before.
        if_match: the hashes of which the present file must have one; None accepts any, and no file.

    Raises:
        TooLarge: a limit is exceeded. As soon as this is known, nothing more is read.
        NotFound, Conflict, InvalidInput, Forbidden, PreconditionFailed: as for any write.
        Unavailable: the content was purged, because it took too long to arrive.
    """
    clean, now = clean_path(path), app.now()
    at = await with_mounts(app, caller, at, clean)
    if (of := mounts_for(caller, at, clean)) is not None:
        return await _put_in_memory(app, caller, of, clean, body, size, if_match)

    async def check(tx: Tx) -> int:
        space = await _space(tx, caller, at)
        return await changes.check_upload(tx, space, clean, if_match, app.file_limits)

    arriving = _Arriving(app, caller.organization_id, await app.database.read(check))
    arriving.check(size or 0)
    try:
        content = await arriving.store(body)

        async def work(tx: Tx, space: WorkspaceRow) -> tuple[Put, FileWrittenData]:
            write = changes.FileWrite(clean, content, expected=if_match, uploaded=True)
            done = await changes.write_file(tx, space, write, app.file_limits, now)
            put = Put(describe(done.row), done.created)
            return put, FileWrittenData(clean, "write", done.created, done.row.size_bytes)

        whole = content if isinstance(content, Content) else None
        return await changing(app, caller, at, work, whole)
    except BaseException:
        await asyncio.shield(arriving.drop())
        raise


async def _put_in_memory(
    app: App,
    caller: Caller,
    of: tuple[SessionId, Mounts],
    path: str,
    body: AsyncIterator[bytes],
    size: int | None,
    if_match: frozenset[str] | None,
) -> Put:
    """As `put_file`, for a path in a memory: what these hold is short, and one transaction stores it."""
    writable_mount(of[1], path)
    if size is not None and size > LIMITS.file:
        raise memory_files.too_large()
    arrived = bytearray()
    async for chunk in body:
        arrived += chunk
        if len(arrived) > LIMITS.file:
            raise memory_files.too_large()
    write = changes.FileWrite(path, content_of(bytes(arrived)), expected=if_match)

    async def work(tx: Tx, held: Held) -> tuple[Put, FileWrittenData]:
        done = await write_one(tx, held, write)
        put = Put(describe(done.row), done.created)
        return put, FileWrittenData(path, "write", done.created, done.row.size_bytes)

    return await changing_memory(app, caller, of, path, work)


async def _space(tx: Tx, scope: Scope, at: At) -> WorkspaceRow:
    org_id = scope.organization_id
    if isinstance(at, OfSession):
        workspace_id = (await get_session(tx, org_id, at.session_id)).workspace()
    else:
        workspace_id = at.workspace_id
    return need_active(await get_workspace(tx, org_id, workspace_id))


class _Arriving:
    """Stores a content while it arrives. One of up to `BATCH` bytes is left to the transaction at the end."""

    def __init__(self, app: Services, org_id: OrgId, room: int) -> None:
        self._app, self._org_id, self._room = app, org_id, room
        self._key = KEY + app.new_id("file")[-32:]
        self._measure = Measure()
        self._stored = 0

    def check(self, size: int) -> None:
        """Raises TooLarge: the file may not have so many bytes."""
        limits = self._app.file_limits
        if size > limits.upload:
            raise too_large(limits.upload)
        if size > self._room:
            raise TooLarge(
                f"a workspace holds at most {size_text(limits.workspace)}: {self._room:,} bytes are free for"
                " this file",
                code="workspace_full",
            )

    async def store(self, body: AsyncIterator[bytes]) -> Content | Uploaded:
        """Read the content to its end."""
        held = bytearray()
        size = 0
        async for chunk in body:
            size += len(chunk)
            self.check(size)
            held += chunk
            while len(held) > BATCH:
                batch = bytes(memoryview(held)[:BATCH])
                del held[:BATCH]
                await self._add(batch)
        rest = bytes(held)
        held.clear()
        if not self._stored:
            return await sized(len(rest), content_of, rest)
        await self._add(rest)
        return self._measure.done(self._key)

    async def _add(self, batch: bytes) -> None:
        parts = await asyncio.to_thread(self._cut, batch)
        add = partial(add_parts, org_id=self._org_id, key=self._key, before=self._stored, parts=parts)
        now = self._app.now()
        await self._app.database.write(lambda tx: add(tx, now=now))
        self._stored += len(batch)

    def _cut(self, batch: bytes) -> list[bytes]:
        self._measure.add(batch)
        return split(batch)

    async def drop(self) -> None:
        """Leave what was stored to the next purge. Without a database, one in an hour finds it."""
        if self._stored:
            try:
                await self._app.database.write(lambda tx: drop_upload(tx, self._org_id, self._key))
            except PerdureError:
                return
