"""A session, as read and named by its own tools; and the check that a session exists."""

from __future__ import annotations

from collections.abc import Mapping

from perdure.app.context import Scope, Services
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import SessionId
from perdure.domain.session_metadata import MAX_VALUE, clean_metadata, read_metadata
from perdure.domain.sessions import MAX_TITLE, clean_tags, clean_title
from perdure.store.database import Changes, Tx
from perdure.store.rows import to_json
from perdure.store.session_changes import update_session
from perdure.store.sessions import SessionRow, get_session


async def check_session(tx: Tx, scope: Scope, session_id: SessionId) -> None:
    """Check before a read that the session exists. Raises NotFound.

    Costs no query in the session's own tools.
    """
    if scope.own_workspace(session_id) is None:
        await get_session(tx, scope.organization_id, session_id)


async def read_own_session(app: Services, scope: Scope, session_id: SessionId) -> SessionRow:
    """Read the session's row. Raises NotFound: the session was deleted meanwhile."""
    return await app.database.read(lambda tx: get_session(tx, scope.organization_id, session_id))


async def name_own_session(app: Services, scope: Scope, session_id: SessionId, title: str) -> str:
    """Set the session's title; returns the title as it is stored.

    Raises:
        InvalidInput: the title is empty or too long, or contains characters that are not allowed.
        NotFound: the session was deleted meanwhile.
    """
    clean = _clean_title(title)
    now = app.now()

    async def work(tx: Tx) -> None:
        row = await get_session(tx, scope.organization_id, session_id)
        await update_session(tx, row, {"title": clean}, now)

    await app.database.write(work)
    return clean


async def mark_own_session(
    app: Services,
    scope: Scope,
    session_id: SessionId,
    *,
    title: str | None,
    tags: tuple[str, ...] | None,
    metadata: Mapping[str, object] | None,
) -> None:
    """Change the session's title, tags and metadata. What is None stays.

    Args:
        metadata: the entries to change; one with None is removed.

    Raises:
        InvalidInput: a value breaks a rule of `UpdateSession`.
        NotFound: the session was deleted meanwhile.
    """
    changes: Changes = {}
    if title is not None:
        changes["title"] = _clean_title(title)
    if tags is not None:
        changes["tags"] = to_json(clean_tags(tags))
    entries: dict[str, str | None] = {}
    for name, value in (metadata or {}).items():
        if value is not None and not (isinstance(value, str) and len(value) <= MAX_VALUE):
            raise InvalidInput(f"`metadata.{name}` must be a text of up to {MAX_VALUE} characters")
        entries[name] = value
    now = app.now()

    async def work(tx: Tx) -> None:
        row = await get_session(tx, scope.organization_id, session_id, lock=bool(entries))
        if entries:
            changes["metadata"] = to_json(clean_metadata(entries, read_metadata(row.metadata)))
        if changes:
            await update_session(tx, row, changes, now)

    await app.database.write(work)


def _clean_title(title: str) -> str:
    clean = clean_title(title.strip())
    if not clean or len(clean) > MAX_TITLE:
        raise InvalidInput(f"the title must have 1 to {MAX_TITLE} characters", field="title")
    return clean
