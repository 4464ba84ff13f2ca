"""Exports of an organization or a tree of sessions, read at one moment and written as a stream."""

from __future__ import annotations

import base64
import gzip
from collections.abc import AsyncIterator, Callable, Sequence
from hashlib import sha256
from typing import IO, Any

import msgspec
from msgspec.structs import replace

from perdure.domain.errors import InvalidInput, NotFound
from perdure.domain.ids import OrgId, SessionId
from perdure.domain.speakers import AgentAt
from perdure.domain.transfers import Footer
from perdure.store.blobs import PARTS
from perdure.store.budget_entries import ALL_ENTRIES, ENTRIES
from perdure.store.crypto import Vault, seal_under
from perdure.store.database import Param, Row, Tx
from perdure.store.rows import among, columns, from_json
from perdure.store.sessions import SessionRow
from perdure.store.transfer_tables import (
    CONTENTS_OF_ORG,
    CONTENTS_OF_SESSION,
    LEDGER,
    OF_ORG,
    OF_SESSION,
    SESSIONS,
    Table,
    columns_of,
)

PAGE_BYTES = 1024 * 1024
"""Bytes of rows that are held in memory at a time, unless a single row is larger."""
PAGE_ROWS = 500
REMEMBERED = 50_000
"""Contents that are not written again for another tree. Later ones may be, which an import ignores."""
_AGENT = msgspec.json.Decoder(AgentAt)

Progress = Callable[[str, int, int], None]


class ExportWriter:
    """Writes the lines of an export.

    Args:
        file: where to.
        vault: opens secrets; None to leave them out.
        key: what they are sealed under in the export.
    """

    def __init__(self, file: IO[bytes], vault: Vault | None, key: bytes | None) -> None:
        self._file = gzip.GzipFile(fileobj=file, mode="wb", compresslevel=4, mtime=0)
        self._digest = sha256()
        self._vault, self._key = vault, key
        self._written: set[tuple[str, str]] = set()
        self._columns: dict[str, tuple[str, ...]] = {}
        self._table = ""
        self.rows = 0

    def line(self, value: object) -> None:
        """Write a line."""
        data = msgspec.json.encode(value) + b"\n"
        self._digest.update(data)
        self._file.write(data)

    def finish(self) -> None:
        """Write the last line."""
        self._file.write(msgspec.json.encode(Footer(self.rows, self._digest.hexdigest())) + b"\n")
        self._file.close()

    def begin_tree(self, root_id: SessionId, session_ids: Sequence[SessionId]) -> None:
        """Begin the rows of a tree of sessions."""
        self._table = ""
        self.line({"tree": root_id, "sessions": list(session_ids)})

    async def table(self, tx: Tx, table: Table, *args: Param) -> None:
        """Write the rows of a table."""
        if table.needs_secret and self._vault is None:
            return
        if table.name not in self._columns:
            self._columns[table.name] = await columns_of(tx, table.name)
        names = self._columns[table.name]
        async for row in _pages(tx, table, names, args):
            values = dict(zip(names, row, strict=True))
            if table.secret is not None:
                values[table.secret[0]] = await self._secret(tx, values, *table.secret)
            self._row(table.name, names, list(values.values()))

    async def _secret(self, tx: Tx, row: dict[str, Any], column: str, place: str) -> object:
        if row[column] is None or self._vault is None or self._key is None:
            return None
        binding = place.format(**row)
        plain = await self._vault.open(tx, OrgId(row["org_id"]), row[column], binding)
        return {"s": base64.b64encode(seal_under(self._key, plain.encode(), binding)).decode()}

    def _row(self, table: str, names: Sequence[str], values: Sequence[object]) -> None:
        if table != self._table:
            self._table = table
            self.line({"t": table, "c": list(names)})
        self.line({"r": [_encoded(each) for each in values]})
        self.rows += 1

    async def contents(self, tx: Tx, org_id: OrgId, where: str, owner: str) -> None:
        """Write the contents of the organization that rows refer to, before those."""
        after: tuple[str, str] = ("", "")
        while True:
            rows = await tx.all(
                f"SELECT org_id, hash, size_bytes, created_at FROM blobs WHERE org_id = ? AND {where}"
                " AND (org_id, hash) > (?, ?) ORDER BY org_id, hash LIMIT ?",
                org_id,
                *[owner] * where.count("?"),
                *after,
                PAGE_ROWS,
            )
            for _, hash_, size, created_at in rows:
                await self._content(tx, org_id, hash_, size, created_at)
            if len(rows) < PAGE_ROWS:
                return
            after = (rows[-1][0], rows[-1][1])

    async def _content(self, tx: Tx, org_id: str, hash_: str, size: int, created_at: int) -> None:
        if (org_id, hash_) in self._written:
            return
        if len(self._written) < REMEMBERED:
            self._written.add((org_id, hash_))
        names = ("org_id", "hash", "size_bytes", "created_at")
        self._row("blobs", names, (org_id, hash_, size, created_at))
        sql = f"SELECT p.content FROM {PARTS} WHERE b.org_id = ? AND b.hash = ? AND p.part = ?"
        part = 0
        while (row := await tx.one(sql, org_id, hash_, part)) is not None:
            self._row("blob_parts", ("org_id", "hash", "part", "content"), (org_id, hash_, part, row[0]))
            part += 1


def _encoded(value: object) -> object:
    if isinstance(value, bytes | memoryview | bytearray):
        return {"b": base64.b64encode(value).decode()}
    return value


async def _pages(tx: Tx, table: Table, names: tuple[str, ...], args: Sequence[Param]) -> AsyncIterator[Row]:
    """Read the rows of a table in pages, in the order of its key."""
    unset = dict(table.unset)
    source = f"({ALL_ENTRIES[tx.dialect]}) AS {table.name}" if table.name == ENTRIES else table.name
    chosen = ", ".join(f"{unset.get(name, f'{table.name}.{name}')} AS {name}" for name in names)
    keys = [names.index(name) for name in table.key]
    key, marks = ", ".join(f"{table.name}.{name}" for name in table.key), ", ".join("?" * len(keys))
    after: list[Any] = []
    while True:
        beyond = f" AND ({key}) > ({marks})" if after else ""
        sql = f"SELECT {chosen} FROM {source} WHERE {table.where}{beyond} ORDER BY {key} LIMIT {PAGE_ROWS}"
        if table.large:
            rows, more = await tx.within(PAGE_BYTES, table.large, sql, *args, *after)
        else:
            rows, more = await tx.all(sql, *args, *after), False
        for row in rows:
            yield row
        if not rows or (not more and len(rows) < PAGE_ROWS):
            return
        after = [rows[-1][place] for place in keys]


async def write_tree(tx: Tx, out: ExportWriter, org_id: OrgId, root_id: SessionId) -> int:
    """Write a session with all below it; return how many sessions these are."""
    rows = await tx.all(
        "SELECT id FROM sessions WHERE (id = ? OR root_session_id = ?) AND deleted_at IS NULL"
        " ORDER BY depth, id",
        root_id,
        root_id,
    )
    ids = [SessionId(row[0]) for row in rows]
    out.begin_tree(root_id, ids)
    for session_id in ids:
        await out.contents(tx, org_id, CONTENTS_OF_SESSION, session_id)
        for table in OF_SESSION:
            await out.table(tx, table, *[session_id] * table.where.count("?"))
    await out.table(tx, LEDGER, root_id)
    await out.table(tx, SESSIONS, root_id, root_id)
    return len(ids)


async def write_organization(tx: Tx, out: ExportWriter, org_id: OrgId, progress: Progress) -> int:
    """Write an organization with all of its sessions; return how many these are."""
    await out.contents(tx, org_id, CONTENTS_OF_ORG, org_id)
    for table in OF_ORG:
        await out.table(tx, table, *[org_id] * table.where.count("?"))
    count, after = 0, ""
    while True:
        roots = await tx.all(
            "SELECT id FROM sessions WHERE org_id = ? AND depth = 0 AND deleted_at IS NULL AND id > ?"
            " ORDER BY id LIMIT ?",
            org_id,
            after,
            PAGE_ROWS,
        )
        for (root_id,) in roots:
            count += await write_tree(tx, out, org_id, root_id)
            progress("exporting sessions", count, 0)
        if len(roots) < PAGE_ROWS:
            return count
        after = roots[-1][0]


async def root_of(tx: Tx, session_id: SessionId) -> SessionRow:
    """Return a session that an export may begin with.

    Raises:
        NotFound: it does not exist.
        InvalidInput: it is a sub-agent's.
    """
    found = await tx.one(
        f"SELECT {columns(SessionRow)} FROM sessions WHERE id = ? AND deleted_at IS NULL", session_id
    )
    if found is None:
        raise NotFound("session")
    row = SessionRow(*found)
    if row.depth:
        raise InvalidInput(
            f"the session {session_id} is a sub-agent's: export the session at the top of its tree,"
            f" {row.root_session_id}"
        )
    return row


async def write_needed(tx: Tx, out: ExportWriter, root: SessionRow) -> None:
    """Write what a tree of sessions needs of its organization: agents, harnesses, models, a workspace."""
    tree = "(s.id = ? OR s.root_session_id = ?) AND s.deleted_at IS NULL"
    rows = await tx.all(
        "SELECT s.harness_id, s.agent_id, s.model_id, s.handed_from, s.workspace_id, s.owner_id"
        f" FROM sessions s WHERE {tree}",
        root.id,
        root.id,
    )
    members = await tx.all(
        f"SELECT p.subject FROM participants p JOIN sessions s ON s.id = p.session_id WHERE {tree}",
        root.id,
        root.id,
    )
    handed = [from_json(_AGENT, row[3], "a session").agent_id for row in rows if row[3]]
    agents = {*(row[1] for row in rows), *(row[0] for row in members), *handed} - {None}
    harnesses, models = {row[0] for row in rows} - {None}, {row[2] for row in rows} - {None}
    for row in await _chosen(tx, "agents", "harness_id, default_model_id", agents):
        harnesses.add(row[0])
        models.add(row[1])
    seen: set[str] = set()
    while left := harnesses - seen:
        seen |= left
        for row in await _chosen(tx, "harnesses", "parent_harness_id, default_model_id", left):
            harnesses.add(row[0])
            models.add(row[1])
        harnesses -= {None}
    models -= {None}
    providers = {row[0] for row in await _chosen(tx, "models", "provider_id", models)}
    spaces = {row[4] for row in rows} - {None}
    chosen = {
        "users": ("id", {row[5] for row in rows}), "providers": ("id", providers), "models": ("id", models),
        "harnesses": ("id", harnesses), "agents": ("id", agents), "agent_versions": ("agent_id", agents),
        "workspaces": ("id", spaces), "files": ("workspace_id", spaces),
    }  # fmt: skip
    for space in sorted(spaces):
        await out.contents(tx, root.org_id, "hash IN (SELECT hash FROM files WHERE workspace_id = ?)", space)
    for table in OF_ORG:
        if table.name in chosen and chosen[table.name][1]:
            column, ids = chosen[table.name]
            match, arg = among(tx.dialect, f"{table.name}.{column}", "TEXT", sorted(ids))
            await out.table(tx, replace(table, where=match), arg)


async def _chosen(tx: Tx, table: str, names: str, ids: set[str]) -> list[Row]:
    match, arg = among(tx.dialect, "id", "TEXT", sorted(ids))
    return await tx.all(f"SELECT {names} FROM {table} WHERE {match}", arg) if ids else []
