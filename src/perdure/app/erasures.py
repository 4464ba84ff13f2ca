"""Erasures of sessions and users: who may ask for one, and their receipts."""

from __future__ import annotations

from functools import partial

from msgspec.structs import replace

from perdure.app.accounts import check_not_last
from perdure.app.confidential import check_row
from perdure.app.context import App
from perdure.app.erasure_remains import EARLIER
from perdure.app.session_ends import remove_session
from perdure.domain.accounts import RANK, Caller, require
from perdure.domain.erasures import CreateErasure, Erased, Erasure, ErasureKind, Remaining
from perdure.domain.errors import Conflict, Forbidden, NotFound
from perdure.domain.ids import ErasureId, SessionId, UserId
from perdure.domain.paging import Page, page_of
from perdure.domain.times import maybe_rfc3339, to_rfc3339
from perdure.store.accounts import end_membership, lock_organization, memberships_of
from perdure.store.database import Tx
from perdure.store.erasures import (
    ErasureRow,
    add_erasure,
    erased_counts,
    get_erasure,
    last_erasure,
    list_erasures,
)
from perdure.store.invitations import delete_invitations_of
from perdure.store.rows import to_json
from perdure.store.session_deletion import claim_deleted, deleted_owner
from perdure.store.session_holds import held_sessions
from perdure.store.sessions import SessionRow

NAMED = 5
"""Held sessions that an error names."""


async def create_erasure(app: App, caller: Caller, body: CreateErasure) -> Erasure:
    """Begin to erase a session or a user; the worker does the rest. Idempotent.

    Raises:
        InvalidInput: the body names none, or both.
        Forbidden: the caller may erase its own sessions and itself; admins may erase others below them.
        Conflict: `session_held`, `last_owner`.
        NotFound.
    """
    kind, subject = body.subject()
    if kind == "session":
        row = await _erase_session(app, caller, SessionId(subject))
    else:
        row = await _erase_user(app, caller, UserId(subject))
    return await _described(app, row)


def _new(app: App, caller: Caller, kind: ErasureKind, subject: str) -> ErasureRow:
    now = app.now()
    return ErasureRow(
        ErasureId(app.new_id("erasure")),
        caller.organization_id,
        kind,
        subject,
        caller.user_id,
        "sessions",
        "",
        app.new_id("user") if kind == "user" else None,
        "[]",
        0,
        now,
        now,
    )


async def _erase_session(app: App, caller: Caller, session_id: SessionId) -> ErasureRow:
    org_id = caller.organization_id
    new = _new(app, caller, "session", session_id)

    async def first(tx: Tx, row: SessionRow) -> ErasureId | None:
        if row.owner_id != caller.user_id and RANK[caller.role] < RANK["admin"]:
            await check_row(tx, caller, row)  # nobody hears that a session exists which is closed to them
        _check_owner(caller, row.owner_id)
        parent = [] if row.parent_session_id is None else [_told(row.parent_session_id)]
        await add_erasure(tx, replace(new, remains=to_json(parent)))
        return new.id

    try:
        await remove_session(app, org_id, session_id, first)
    except NotFound:
        return await app.database.write(partial(_of_deleted, caller=caller, new=new))
    return await app.database.read(lambda tx: get_erasure(tx, org_id, new.id))


def _told(parent_id: SessionId) -> Remaining:
    return Remaining(
        "parent_log",
        f"the log of the session above, {parent_id}, has what the two told each other, and logs are never"
        " changed: erase that session, too",
    )


async def _of_deleted(tx: Tx, caller: Caller, new: ErasureRow) -> ErasureRow:
    """Begin to erase a session that is deleted, or return its erasure. Raises NotFound."""
    before = await last_erasure(tx, new.org_id, new.subject_id)
    if before is not None:
        if before.requested_by != caller.user_id:
            require(caller, "admin")
        return before
    owner_id = await deleted_owner(tx, new.org_id, SessionId(new.subject_id))
    if owner_id is None:
        raise NotFound("session")
    _check_owner(caller, owner_id)
    await add_erasure(tx, replace(new, remains=to_json([EARLIER])))
    await claim_deleted(tx, new.id, SessionId(new.subject_id))
    return new


def _check_owner(caller: Caller, owner_id: UserId) -> None:
    if owner_id != caller.user_id and RANK[caller.role] < RANK["admin"]:
        raise Forbidden(
            "only the session's owner or an admin may erase it: you can delete it", code="role_required"
        )


async def _erase_user(app: App, caller: Caller, user_id: UserId) -> ErasureRow:
    org_id, now = caller.organization_id, app.now()
    new = _new(app, caller, "user", user_id)

    async def work(tx: Tx) -> ErasureRow:
        await lock_organization(tx, org_id)
        role = dict(await memberships_of(tx, user_id)).get(org_id)
        if user_id != caller.user_id:
            require(caller, "admin")
        if role is None:
            before = await last_erasure(tx, org_id, user_id)
            if before is None:
                raise NotFound("user")
            return before
        if user_id != caller.user_id:
            require(caller, role)
        await check_not_last(tx, org_id, user_id, role)
        held = await held_sessions(tx, org_id, user_id)
        if held:
            raise Conflict(
                f"{len(held)} of the user's sessions are under legal hold: an admin has to release them"
                f" first, {', '.join(held[:NAMED])}{' and others' if len(held) > NAMED else ''}",
                code="session_held",
            )
        await end_membership(tx, org_id, user_id, now, handover=user_id == caller.user_id)
        await delete_invitations_of(tx, org_id, user_id)
        await add_erasure(tx, new)
        return new

    return await app.database.write(work)


async def read_erasure(app: App, caller: Caller, erasure_id: ErasureId) -> Erasure:
    """Return an erasure: one's own, or as an admin any of the organization. Raises NotFound."""
    row = await app.database.read(lambda tx: get_erasure(tx, caller.organization_id, erasure_id))
    if row.requested_by != caller.user_id and RANK[caller.role] < RANK["admin"]:
        raise NotFound("erasure")
    return await _described(app, row)


async def all_erasures(app: App, caller: Caller, offset: int, limit: int) -> Page[Erasure]:
    """List the erasures that the caller asked for; for admins, all of the organization. Newest first."""
    own = None if RANK[caller.role] >= RANK["admin"] else caller.user_id

    async def work(tx: Tx) -> tuple[list[Erasure], int]:
        rows, total = await list_erasures(tx, caller.organization_id, own, offset, limit)
        counts = await erased_counts(tx, [row.id for row in rows])
        return [to_erasure(row, counts.get(row.id, [])) for row in rows], total

    erasures, total = await app.database.read(work)
    return page_of(erasures, total, offset, limit)


async def _described(app: App, row: ErasureRow) -> Erasure:
    counts = await app.database.read(lambda tx: erased_counts(tx, [row.id]))
    return to_erasure(row, counts.get(row.id, []))


def to_erasure(row: ErasureRow, counts: list[tuple[str, int, int]]) -> Erasure:
    """Convert a row to the receipt that clients see."""
    return Erasure(
        row.id,
        row.org_id,
        row.kind,
        row.subject_id,
        row.requested_by,
        "running" if row.finished_at is None else "finished",
        row.stage,
        to_rfc3339(row.created_at),
        to_rfc3339(row.updated_at),
        tuple(Erased(*each) for each in counts),
        row.remaining(),
        maybe_rfc3339(row.finished_at),
    )
