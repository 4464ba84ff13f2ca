"""The audit log: list it, export it, and note what was denied. Entries are added by `store/audited.py`."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from typing import Literal

import msgspec
from msgspec.structs import replace

from perdure.app.accounts import own_organization
from perdure.app.context import App
from perdure.app.searches import search
from perdure.domain.accounts import Caller, require
from perdure.domain.audits import AuditEntry, AuditFilter, AuditLog, Origin
from perdure.domain.ids import OrgId
from perdure.store.audit_denied import Denied, add_denied
from perdure.store.audit_entries import list_entries
from perdure.store.audit_tables import Audited
from perdure.store.audited import AuditedDatabase
from perdure.store.database import Tx

ExportFormat = Literal["ndjson", "csv"]
_BATCH = 500
"""Entries of an export that are in memory at once."""


async def _entries(
    app: App, caller: Caller, org_id: OrgId, filters: AuditFilter, limit: int
) -> list[AuditEntry]:
    async def work(tx: Tx) -> list[AuditEntry]:
        row, role = await own_organization(tx, caller, org_id)
        require(Caller(row.id, caller.user_id, role), "admin")
        return await list_entries(tx, row.id, filters, limit)

    return await search(app, caller, work)


async def page_of_audit_log(
    app: App, caller: Caller, org_id: OrgId, filters: AuditFilter, limit: int
) -> AuditLog:
    """List the newest entries that match; admins only. Raises Forbidden, NotFound."""
    found = await _entries(app, caller, org_id, filters, limit + 1)
    more = len(found) > limit
    return AuditLog(tuple(found[:limit]), more, found[limit - 1].id if more else None)


async def export_audit_log(
    app: App, caller: Caller, org_id: OrgId, filters: AuditFilter, form: ExportFormat
) -> AsyncIterator[bytes]:
    """Export all entries that match, newest first, batch by batch; admins only.

    Raises:
        Forbidden, NotFound: before the first batch.
    """
    if form == "csv":
        await _entries(app, caller, org_id, filters, 1)  # refuses before the head
        yield _lines([_HEAD])
    while True:
        found = await _entries(app, caller, org_id, filters, _BATCH)
        if found:
            yield (
                _lines([_cells(each) for each in found])
                if form == "csv"
                else b"".join(msgspec.json.encode(each) + b"\n" for each in found)
            )
        if len(found) < _BATCH:
            return
        filters = replace(filters, before=found[-1].id)


_HEAD = (
    "id", "created_at", "organization_id", "action", "outcome", "entity_type", "entity_id", "entity_name",
    "session_id", "actor_type", "actor_id", "actor_name", "token_id", "token_name", "operation", "request_id",
    "address", "forwarded_for", "user_agent", "reason", "rows_changed", "before", "after",
)  # fmt: skip


def _cells(each: AuditEntry) -> tuple[object, ...]:
    return (
        each.id, each.created_at, each.organization_id, each.action, each.outcome, each.entity.type,
        each.entity.id, each.entity.name, each.session_id, each.actor.type, each.actor.id, each.actor.name,
        each.actor.token_id, each.actor.token_name, each.operation, each.request_id, each.address,
        each.forwarded_for, each.user_agent, each.reason, each.rows_changed,
        *("" if part is None else msgspec.json.encode(part).decode() for part in (each.before, each.after)),
    )  # fmt: skip


def _lines(rows: list[tuple[object, ...]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([_harmless(cell) for cell in row] for row in rows)
    return text.getvalue().encode()


def _harmless(cell: object) -> object:
    """Return a cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell


def audited_app(app: App, origin: Origin, what: Audited) -> App:
    """Return the services with a database whose changes leave entries in the audit log.

    Args:
        origin: who makes the changes, and from where.
        what: the changes that count.
    """
    return replace(app, database=AuditedDatabase(app.database, app.vault, app.now, origin, what))


async def note_denied(app: App, origin: Origin, denied: Denied) -> None:
    """Add an entry about a change that the caller's role did not allow."""
    now = app.now()
    await app.database.write(lambda tx: add_denied(tx, origin, denied, now))
