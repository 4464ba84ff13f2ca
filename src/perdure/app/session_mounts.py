"""The memories in a session's files, for callers of the API."""

from __future__ import annotations

from msgspec.structs import replace

from perdure.app.context import App
from perdure.app.file_access import At, OfSession
from perdure.app.file_views import in_memories
from perdure.capabilities.layers import read_layers
from perdure.capabilities.registry import Registry
from perdure.capabilities.resolve import mounts_of
from perdure.domain.accounts import Caller
from perdure.domain.errors import Damaged, NotFound
from perdure.domain.memories import MemoryMount, Mounts
from perdure.store.database import Tx
from perdure.store.sessions import SessionRow, get_session


async def with_mounts(app: App, caller: Caller, at: At, *paths: str) -> At:
    """Add the memories to a session's files, if one of these clean paths can be in one. Raises NotFound."""
    if not isinstance(at, OfSession) or not any(path == "/" or in_memories(path) for path in paths):
        return at

    async def work(tx: Tx) -> tuple[SessionRow, tuple[MemoryMount, ...]]:
        row = await get_session(tx, caller.organization_id, at.session_id)
        return row, await session_mounts(tx, app.registry, row)

    row, mounts = await app.database.read(work)
    if not mounts:
        return at
    return replace(at, mounts=Mounts(mounts, row.owner_id, row.agent_id, caller.user_id, session_id=row.id))


async def session_mounts(tx: Tx, registry: Registry, row: SessionRow) -> tuple[MemoryMount, ...]:
    """Read the memories that a session's layers mount; none after its harness or agent was deleted."""
    try:
        layers = await read_layers(tx, row)
    except (NotFound, Damaged):
        return ()
    return mounts_of(registry.resolve(layer.refs(registry) for layer in layers))
