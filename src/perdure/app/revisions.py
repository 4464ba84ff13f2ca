"""The history of agents and harnesses: list it, show a state, compare two, and restore one."""

from __future__ import annotations

import msgspec

from perdure.app.agent_versions import restore_agent
from perdure.app.agents import find_agent
from perdure.app.context import App
from perdure.app.harnesses import find_any_harness, restore_harness
from perdure.app.idempotency import Once, write_once
from perdure.app.restoring import Restored
from perdure.app.searches import search
from perdure.domain.accounts import Caller
from perdure.domain.agent_versions import diff_objects
from perdure.domain.audit_values import shown_fields
from perdure.domain.audits import AuditActor
from perdure.domain.errors import Conflict, InvalidInput, NotFound
from perdure.domain.ids import is_id
from perdure.domain.messages import JsonObject
from perdure.domain.resources import require_manager
from perdure.domain.revisions import (
    RestoreRevision,
    Revision,
    RevisionDiff,
    RevisionFilter,
    RevisionKind,
    RevisionList,
)
from perdure.domain.times import to_rfc3339
from perdure.store.audit_changes import note_reason, record_now
from perdure.store.audit_entries import digests_of
from perdure.store.database import Tx
from perdure.store.revisions import (
    RevisionRow,
    archived_with_name,
    get_revision,
    latest_revision,
    list_revisions,
)


def _to_revision(row: RevisionRow, content: JsonObject | None = None) -> Revision:
    return Revision(
        id=row.id,
        kind=row.kind,
        entity_id=row.entity_id,
        revision=row.revision,
        action=row.action,
        actor=AuditActor(row.actor_type, row.actor_id, row.actor_name, row.token_id),
        created_at=to_rfc3339(row.created_at),
        entity_name=row.entity_name,
        reason=row.reason,
        audit_entry_id=row.audit_entry_id,
        content=content,
    )


async def _find(tx: Tx, caller: Caller, ref: str, kind: RevisionKind | None) -> tuple[RevisionKind, str]:
    """Return the kind and the id of an agent or a harness, by id or name.

    A name means the one that has it now, else the only archived one that had it.

    Raises:
        InvalidInput: the id belongs to the other kind, or several archived ones had the name.
        NotFound: there is none.
    """
    kinds: tuple[RevisionKind, ...] = ("agent", "harness")
    own = next((each for each in kinds if is_id(ref, each)), kind or "agent")
    if kind is not None and kind != own:
        raise InvalidInput(f"`kind` is {kind}, but {ref} is the id of another kind", field="kind")
    try:
        if own == "harness":
            return own, (await find_any_harness(tx, caller.organization_id, ref)).id
        return own, (await find_agent(tx, caller.organization_id, ref)).id
    except NotFound:
        archived = await archived_with_name(tx, caller.organization_id, own, ref)
        if len(archived) > 1:
            raise InvalidInput(
                f"several archived ones had the name {ref}: use the id of one, {' or '.join(archived)}",
                field="entity_ref",
            ) from None
        if not archived:
            raise
        return own, archived[0]


async def history_of_organization(
    app: App, caller: Caller, filters: RevisionFilter, limit: int
) -> RevisionList:
    """List the newest revisions of all agents and harnesses that match."""
    return _page(
        await search(app, caller, lambda tx: list_revisions(tx, caller.organization_id, filters, limit + 1)),
        limit,
    )


async def history_of(
    app: App, caller: Caller, ref: str, kind: RevisionKind | None, filters: RevisionFilter, limit: int
) -> RevisionList:
    """List the newest revisions of one agent or harness. Raises NotFound."""

    async def work(tx: Tx) -> list[RevisionRow]:
        _, entity_id = await _find(tx, caller, ref, kind)
        only = msgspec.structs.replace(filters, entity_id=entity_id)
        return await list_revisions(tx, caller.organization_id, only, limit + 1)

    return _page(await app.database.read(work, long=True), limit)


def _page(rows: list[RevisionRow], limit: int) -> RevisionList:
    more = len(rows) > limit
    return RevisionList(tuple(map(_to_revision, rows[:limit])), more, rows[limit - 1].id if more else None)


async def _shown(app: App, tx: Tx, row: RevisionRow) -> JsonObject:
    return shown_fields(row.fields(), await digests_of(tx, app.vault, row.org_id), whole=True)


async def read_revision(
    app: App, caller: Caller, ref: str, kind: RevisionKind | None, number: int
) -> Revision:
    """Read one revision. Raises NotFound."""

    async def work(tx: Tx) -> Revision:
        _, entity_id = await _find(tx, caller, ref, kind)
        row = await get_revision(tx, caller.organization_id, entity_id, number)
        return _to_revision(row, await _shown(app, tx, row))

    return await app.database.read(work, long=True)


async def diff_revisions(
    app: App, caller: Caller, ref: str, kind: RevisionKind | None, first: int, second: int | None
) -> RevisionDiff:
    """Compare two revisions.

    Args:
        second: the revision that the diff leads to; None for the newest.

    Raises:
        NotFound: there is no such revision.
    """

    async def work(tx: Tx) -> RevisionDiff:
        found, entity_id = await _find(tx, caller, ref, kind)
        org_id = caller.organization_id
        old = await get_revision(tx, org_id, entity_id, first)
        new = (
            await latest_revision(tx, org_id, entity_id)
            if second is None
            else await get_revision(tx, org_id, entity_id, second)
        )
        if new is None:
            raise NotFound("revision")
        changes = diff_objects(await _shown(app, tx, old), await _shown(app, tx, new))
        return RevisionDiff(found, entity_id, old.revision, new.revision, changes)

    return await app.database.read(work, long=True)


async def restore_revision(
    app: App, caller: Caller, ref: str, body: RestoreRevision, once: Once | None = None
) -> Revision:
    """Give an agent or a harness the state of a revision, which makes another one.

    Nothing changes if it has that state.

    Returns:
        The newest revision.

    Raises:
        Conflict: `revision_conflict`: there is a newer revision than the caller expects.
        Forbidden: the caller may not change it, or not loosen its policies.
        NotFound: there is no such revision.
    """

    async def work(tx: Tx) -> Revision:
        kind, entity_id = await _find(tx, caller, ref, body.kind)
        require_manager(caller, kind)
        restore = restore_agent if kind == "agent" else restore_harness
        org_id = caller.organization_id
        row = await get_revision(tx, org_id, entity_id, body.revision)
        note_reason(tx, f"Restores revision {row.revision}")

        async def check() -> None:
            last = await latest_revision(tx, org_id, entity_id)
            if last is not None and body.expected_revision not in (None, last.revision):
                raise Conflict(
                    f"the newest revision is {last.revision}, not {body.expected_revision}: look at what has"
                    " changed, and restore with that number",
                    code="revision_conflict",
                )

        await restore(app, tx, caller, entity_id, Restored(row.fields(), body.fields), check)
        await record_now(tx)
        last = await latest_revision(tx, org_id, entity_id) or row
        return _to_revision(last, await _shown(app, tx, last))

    return await write_once(app, once, work, lambda found: (found, 200))
