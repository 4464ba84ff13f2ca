"""Rows of revisions: every state of an agent or a harness. They are only ever added."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import Struct

from perdure.domain.audits import ActorType
from perdure.domain.errors import NotFound
from perdure.domain.ids import AuditEntryId, OrgId, RevisionId, TokenId, new_id
from perdure.domain.messages import JsonObject
from perdure.domain.revisions import RevisionFilter, RevisionKind
from perdure.domain.times import Micros
from perdure.store.audit_changes import Change, fields_of
from perdure.store.database import Tx, Value
from perdure.store.rows import columns, from_json, insert, to_json, values


class RevisionRow(Struct, frozen=True):
    """A revision; without `audit_entry_id`, nobody was seen to make this state.

    Attributes:
        content: all fields, as JSON, in lists an empty object.
    """

    org_id: OrgId
    id: RevisionId
    kind: RevisionKind
    entity_id: str
    entity_name: str | None
    revision: int
    action: str
    actor_type: ActorType
    actor_id: str | None
    actor_name: str | None
    token_id: TokenId | None
    reason: str | None
    audit_entry_id: AuditEntryId | None
    content: str
    created_at: Micros

    def fields(self) -> JsonObject:
        return from_json(_FIELDS, self.content, f"the revision {self.revision} of {self.entity_id}")


_FIELDS = msgspec.json.Decoder(JsonObject)
_COLUMNS = columns(RevisionRow)
_LISTED = _COLUMNS.replace("content", "'{}' AS content")
_INSERT = insert("revisions", RevisionRow)
_NUMBER = "SELECT b.revision FROM revisions b WHERE b.org_id = revisions.org_id AND b.id = ?"


async def add_revision(tx: Tx, change: Change, entry_id: AuditEntryId, entry: Mapping[str, object]) -> None:
    """Add a revision for a change of an entity whose row is locked.

    A state that no revision has comes first: that of an entity from before there were any, or one that the
    server itself has changed.

    Args:
        entry: the columns of the change's entry in the audit log.
    """
    watched = change.watched
    org_id, entity_id = OrgId(str(entry["org_id"])), str(entry["entity_id"])
    last = await latest_revision(tx, org_id, entity_id)
    number = 0 if last is None else last.revision
    now = msgspec.convert(entry["created_at"], int)
    common = {name: entry[name] for name in ("org_id", "entity_id", "entity_name", "created_at")}
    rows = []
    if change.before is not None:
        old = to_json(fields_of(watched, change.before))
        if last is None or last.content != old:
            number += 1
            rows.append(
                {
                    **common,
                    "action": f"{watched.type}.found",
                    "actor_type": "server",
                    "content": old,
                    "revision": number,
                }
            )
    rows.append(
        {
            **common,
            **{
                name: entry[name]
                for name in ("action", "actor_type", "actor_id", "actor_name", "token_id", "reason")
            },
            "audit_entry_id": entry_id,
            "revision": number + 1,
            "content": to_json(fields_of(watched, change.row)),
        }
    )
    ids = sorted(new_id("revision", now // 1000) for _ in rows)  # so that both orders are the same
    for identifier, row in zip(ids, rows, strict=True):
        complete = {name: row.get(name) for name in RevisionRow.__struct_fields__}
        complete |= {"id": identifier, "kind": watched.type}
        await tx.run(_INSERT, *values(msgspec.convert(complete, RevisionRow)))


async def latest_revision(tx: Tx, org_id: OrgId, entity_id: str) -> RevisionRow | None:
    """Return an entity's newest revision."""
    found = await tx.one(
        f"SELECT {_COLUMNS} FROM revisions WHERE org_id = ? AND entity_id = ? ORDER BY revision DESC LIMIT 1",
        org_id,
        entity_id,
    )
    return None if found is None else RevisionRow(*found)


async def get_revision(tx: Tx, org_id: OrgId, entity_id: str, revision: int) -> RevisionRow:
    """Return one revision. Raises NotFound."""
    found = await tx.one(
        f"SELECT {_COLUMNS} FROM revisions WHERE org_id = ? AND entity_id = ? AND revision = ?",
        org_id,
        entity_id,
        revision,
    )
    if found is None:
        raise NotFound("revision")
    return RevisionRow(*found)


_TABLES: dict[RevisionKind, str] = {"agent": "agents", "harness": "harnesses"}


async def archived_with_name(
    tx: Tx, org_id: OrgId, kind: RevisionKind, name: str, limit: int = 5
) -> list[str]:
    """Return the ids of archived agents or harnesses that had a name, the last changed first."""
    rows = await tx.all(
        f"SELECT id FROM {_TABLES[kind]} WHERE org_id = ? AND name = ? AND status = 'archived'"
        " ORDER BY updated_at DESC, id LIMIT ?",
        org_id,
        name,
        limit,
    )
    return [str(each[0]) for each in rows]


async def list_revisions(tx: Tx, org_id: OrgId, filters: RevisionFilter, limit: int) -> list[RevisionRow]:
    """Return the newest revisions that match, without their content."""
    where, args = ["org_id = ?"], list[Value]([org_id])
    for name, value in (
        ("entity_id", filters.entity_id),
        ("kind", filters.kind),
        ("action", filters.action),
        ("actor_id", filters.actor_user_id),
    ):
        if value is not None:
            where.append(f"{name} = ?")
            args.append(value)
    if filters.before is not None:
        where.append("id < ?" if filters.entity_id is None else f"revision < ({_NUMBER})")
        args.append(filters.before)
    if filters.since is not None:
        where.append("created_at >= ?")
        args.append(filters.since)
    order = "id DESC" if filters.entity_id is None else "revision DESC"
    rows = await tx.all(
        f"SELECT {_LISTED} FROM revisions WHERE {' AND '.join(where)} ORDER BY {order} LIMIT ?", *args, limit
    )
    return [RevisionRow(*row) for row in rows]
