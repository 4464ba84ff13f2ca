"""Rows of the audit log. They are only ever added, and deleted by age."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct

from perdure.domain.audit_values import Digest, changed_fields, hidden_fields, shown_fields
from perdure.domain.audits import (
    ActorType,
    AuditActor,
    AuditEntity,
    AuditEntry,
    AuditFilter,
    Origin,
    Outcome,
)
from perdure.domain.errors import Unreadable
from perdure.domain.ids import AuditEntryId, OrgId, SessionId, TokenId, new_id
from perdure.domain.inbox import session_of_item
from perdure.domain.messages import JsonObject
from perdure.domain.times import Micros, to_rfc3339
from perdure.domain.workspaces import session_of
from perdure.store.audit_changes import Change, Names, Stored, fields_of
from perdure.store.audit_tables import Audited, Watched
from perdure.store.confidential import reader_of
from perdure.store.crypto import Vault
from perdure.store.database import Part, Tx, Value
from perdure.store.revisions import add_revision
from perdure.store.rows import columns, from_json, insert, to_json, values


class AuditRow(Struct, frozen=True):
    org_id: OrgId
    id: AuditEntryId
    created_at: Micros
    action: str
    outcome: Outcome
    entity_type: str
    entity_id: str
    entity_name: str | None
    session_id: SessionId | None
    actor_type: ActorType
    actor_id: str | None
    actor_name: str | None
    token_id: TokenId | None
    token_name: str | None
    operation: str
    request_id: str | None
    address: str | None
    forwarded_for: str | None
    user_agent: str | None
    reason: str | None
    before: str | None
    after: str | None
    rows_changed: int


_COLUMNS = columns(AuditRow)
_INSERT = insert("audit_entries", AuditRow)
_EXPRESSIONS = {
    "actor_name": "(SELECT name FROM users WHERE id = ?)",
    "token_name": "(SELECT name FROM tokens WHERE id = ?)",
    "created_at": "CAST(? AS BIGINT)",
    "rows_changed": "CAST(? AS BIGINT)",
}
_INSERT_NAMED = f"INSERT INTO audit_entries ({_COLUMNS}) SELECT " + ", ".join(
    _EXPRESSIONS.get(name, "?") for name in AuditRow.__struct_fields__
)
"""As `_INSERT`, with the ids of a user and a token in place of their names."""
_FIELDS = msgspec.json.Decoder(JsonObject)
_FOLDER = '"is_directory":1'
LONGEST_NAME, LONGEST_ID = 300, 1200
"""Characters of an entity's name and id that are kept."""


class Maker(Struct, frozen=True):
    """Who makes changes, when, and from where.

    Attributes:
        now: the time, in microseconds.
    """

    origin: Origin
    names: Names
    now: Micros

    def row(
        self,
        org_id: OrgId,
        entity_type: str,
        entity_id: str,
        *,
        name: str | None = None,
        session_id: SessionId | None = None,
    ) -> AuditRow:
        """Return an entry's row, without what was done."""
        origin = self.origin
        return AuditRow(
            org_id=org_id,
            id=AuditEntryId(new_id("audit", self.now // 1000)),
            created_at=self.now,
            action="",
            outcome="done",
            entity_type=entity_type,
            entity_id=entity_id[:LONGEST_ID],
            entity_name=None if name is None else name[:LONGEST_NAME],
            session_id=session_id,
            actor_type=origin.actor_type,
            actor_id=origin.user_id,
            actor_name=self.names.user,
            token_id=origin.token_id,
            token_name=self.names.token,
            operation=origin.operation,
            request_id=origin.request_id,
            address=origin.address,
            forwarded_for=origin.forwarded_for,
            user_agent=origin.user_agent,
            reason=origin.reason,
            before=None,
            after=None,
            rows_changed=1,
        )


async def digests_of(tx: Tx, vault: Vault, org_id: OrgId) -> Digest:
    """Return what makes digests of secrets, for one organization."""
    try:
        key = await vault.digest_key(tx, org_id)
    except Unreadable:  # what is changed without the master key leaves an entry, too
        return lambda value: "hmac:unknown"
    return lambda value: f"hmac:{hmac.digest(key, value, 'sha256')[:16].hex()}"


async def add_entries(
    tx: Tx, vault: Vault, maker: Maker, audited: Audited, changes: Sequence[Change], more: int
) -> None:
    """Add entries for what a transaction has changed, and the revisions of what has a history.

    Args:
        more: how many rows were changed beyond those of `changes`.
    """
    found = []
    for change in changes:
        if audited.only and change.verb not in audited.only:
            continue
        row = await _entry(tx, vault, maker, audited, change)
        if row is None:
            continue
        found.append(row)
        if change.watched.history:
            await add_revision(tx, change, row.id, msgspec.structs.asdict(row))
    if audited.watched.single and len(found) > 1:
        files = (each for each in found if _FOLDER not in (each.after or each.before or ""))
        one = next(files, found[0])
        made = (each.after for each in found if each.before is None and _FOLDER not in (each.after or ""))
        moved = next(made, None) if one.after is None else one.after
        found = [msgspec.structs.replace(one, after=moved, rows_changed=len(found) + more)]
    elif found and more:
        found[-1] = msgspec.structs.replace(found[-1], rows_changed=1 + more)
    if found:
        await add_rows(tx, found)


async def add_rows(tx: Tx, rows: Sequence[AuditRow]) -> None:
    """Add entries."""
    await tx.run_many(_INSERT, [values(each) for each in rows])


class NamedEntry(Struct, frozen=True):
    """An entry to add with the change itself. The names of who makes it are looked up by the same statement.

    Attributes:
        row: the entry, without these names.
    """

    row: AuditRow

    def part(self) -> Part:
        """Return the part of an append's statement that adds it."""
        return Part(f"audited AS ({_INSERT_NAMED} FROM moved)", self._args())

    async def run(self, tx: Tx) -> None:
        """Add it in a statement of its own."""
        await tx.run(_INSERT_NAMED, *self._args())

    def _args(self) -> tuple[Value, ...]:
        row = self.row
        return values(msgspec.structs.replace(row, actor_name=row.actor_id, token_name=row.token_id))


async def entry_of(
    tx: Tx, vault: Vault, maker: Maker, audited: Audited, change: Change, *, private: bool
) -> NamedEntry | None:
    """Return the entry of a change, to add with it; None if it leaves none.

    Args:
        maker: who makes the change, without names.
        private: whether what is changed is a single user's.
    """
    if audited.only and change.verb not in audited.only:
        return None
    row = await _entry(tx, vault, maker, audited, change, private=private)
    return None if row is None else NamedEntry(row)


async def _entry(
    tx: Tx, vault: Vault, maker: Maker, audited: Audited, change: Change, *, private: bool | None = None
) -> AuditRow | None:
    """Return the row of a change's entry; None if nothing that is shown has changed."""
    watched, row = change.watched, change.row
    org_id = OrgId(str(row[watched.org])) if watched.org and row[watched.org] else maker.origin.org_id
    if not org_id:
        return None
    digest = await digests_of(tx, vault, org_id)
    before = await _fields(tx, vault, digest, watched, change.before, org_id)
    after = await _fields(tx, vault, digest, watched, change.after, org_id)
    old, new = changed_fields(before, after)
    if not old and change.verb == "updated":
        return None
    session = await session_of_row(tx, watched, row, org_id)
    entity_id, name = watched.id.format(**row), row[watched.name] if watched.name else None
    show: Callable[[JsonObject, Digest], JsonObject] = shown_fields
    if await is_private(tx, watched, row) if private is None else private:
        show, name = hidden_fields, None
        own, slash, rest = entity_id.partition("/")
        entity_id = f"{own}{slash}{digest(rest.encode()) if rest else ''}"
    entry = maker.row(
        org_id,
        watched.type,
        entity_id,
        name=None if name is None else str(name),
        session_id=session,
    )
    return msgspec.structs.replace(
        entry,
        action=audited.action(watched, change.verb),
        before=None if change.before is None else to_json(show(old, digest)),
        after=None if change.after is None else to_json(show(new, digest)),
    )


async def session_of_row(tx: Tx, watched: Watched, row: Stored, org_id: OrgId) -> SessionId | None:
    """Return the session that something is in, with which its entries are erased."""
    if watched.session:
        return SessionId(str(row[watched.session])) if row[watched.session] else None
    if row.get("subject_type") == "session":
        return SessionId(str(row["subject_id"]))
    if watched.type == "inbox_link":
        return session_of_item(str(row["item_id"]))
    if not row.get("workspace_id"):
        return None
    session_id = session_of(str(row["workspace_id"]))  # shared workspaces are no session's own
    found = await tx.one("SELECT 1 FROM sessions WHERE id = ? AND org_id = ?", session_id, org_id)
    return None if found is None else session_id


async def is_private(tx: Tx, watched: Watched, row: Stored) -> bool:
    """Whether something is a single user's, so that administrators do not read it either.

    That is a user's memory, and a session that knows one.
    """
    if watched.type == "memory":
        return row["scope"] == "user"
    place = next((str(row[name]) for name in ("workspace_id", "memory_id") if row.get(name)), "")
    if place.startswith("memory_"):
        found = await tx.one("SELECT scope FROM memories WHERE id = ?", place)
        return found is not None and found[0] == "user"
    session = row[watched.session] if watched.session else place
    return bool(session) and await reader_of(tx, session_of(str(session))) is not None


async def _fields(
    tx: Tx, vault: Vault, digest: Digest, watched: Watched, row: Stored | None, org_id: OrgId
) -> JsonObject | None:
    """Return a row's fields, its secrets as digests."""
    if row is None:
        return None
    fields = fields_of(watched, row)
    for name in watched.digests:
        if row[name] is not None:
            fields[name] = digest(_bytes(row[name]))
    if watched.sealed is not None and row[watched.sealed[0]] is not None:
        column, place = watched.sealed
        sealed = _bytes(row[column])
        try:
            plain = (await vault.open(tx, org_id, sealed, place.format(**row))).encode()
        except Unreadable:
            plain = sealed
        fields[column] = digest(plain)
    return fields


def _bytes(value: Value) -> bytes:
    return bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode()


def to_entry(row: AuditRow) -> AuditEntry:
    """Convert a row to the entry that people see."""
    what = f"the entry {row.id} of the audit log"
    return AuditEntry(
        id=row.id,
        organization_id=row.org_id,
        created_at=to_rfc3339(row.created_at),
        action=row.action,
        outcome=row.outcome,
        entity=AuditEntity(row.entity_type, row.entity_id, row.entity_name),
        actor=AuditActor(row.actor_type, row.actor_id, row.actor_name, row.token_id, row.token_name),
        operation=row.operation,
        before=None if row.before is None else from_json(_FIELDS, row.before, what),
        after=None if row.after is None else from_json(_FIELDS, row.after, what),
        reason=row.reason,
        session_id=row.session_id,
        request_id=row.request_id,
        address=row.address,
        forwarded_for=row.forwarded_for,
        user_agent=row.user_agent,
        rows_changed=row.rows_changed,
    )


async def list_entries(tx: Tx, org_id: OrgId, filters: AuditFilter, limit: int) -> list[AuditEntry]:
    """Return the organization's newest entries that match."""
    where, args = ["org_id = ?"], list[Value]([org_id])
    for name in ("actor_id", "entity_type", "entity_id", "session_id", "outcome"):
        if (value := getattr(filters, name)) is not None:
            where.append(f"{name} = ?")
            args.append(value)
    if filters.action is not None:
        whole = not filters.action.endswith("*")
        where.append("action = ?" if whole else "SUBSTR(action, 1, ?) = ?")
        args += [filters.action] if whole else [len(filters.action) - 1, filters.action[:-1]]
    if filters.domain is not None:
        where.append("SUBSTR(action, 1, ?) = ?")
        args += [len(filters.domain) + 1, f"{filters.domain}."]
    for condition, cursor in (("id < ?", filters.before), ("id > ?", filters.after)):
        if cursor is not None:
            where.append(condition)
            args.append(cursor)
    if filters.since is not None:
        where += ["id >= ?", "created_at >= ?"]
        args += [first_id(filters.since), filters.since]
    if filters.until is not None:
        where += ["id < ?", "created_at < ?"]
        args += [first_id(filters.until + 1000), filters.until]
    rows = await tx.all(
        f"SELECT {_COLUMNS} FROM audit_entries WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT ?",
        *args,
        limit,
    )
    return [to_entry(AuditRow(*row)) for row in rows]


def first_id(at: Micros) -> str:
    """Return what no id of an entry from this millisecond or later is less than."""
    return f"audit_{min(max(at // 1000, 0), (1 << 48) - 1):012x}"
