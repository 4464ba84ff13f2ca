"""Imports: the rows of an export become rows of this database, in small transactions.

Rows that are there already are left alone, so an import can be repeated. The sessions of a tree appear in
one transaction, after everything that belongs to them; what an interrupted import left of a tree is removed
first.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from perdure.domain.errors import InvalidInput, Unreadable
from perdure.domain.ids import OrgId, UserId
from perdure.domain.times import Micros
from perdure.domain.transfers import (
    Footer,
    Header,
    Imported,
    OnConflict,
    bad_export,
    read_header,
    with_ids,
)
from perdure.store.crypto import Vault, open_under
from perdure.store.database import Database, Row, Tx, Value
from perdure.store.session_counts import count_sessions
from perdure.store.transfer_tables import COPIED, LEDGER, OF_ORG, OF_SESSION, SESSIONS, Table, columns_of

MAX_LINE = 1 << 30
"""Bytes of the longest line that is read."""
BATCH_ROWS, BATCH_BYTES = 500, 1024 * 1024
"""The rows and bytes of one transaction, unless a single row is larger."""
TABLES = {table.name: table for table in (*OF_ORG, *OF_SESSION, LEDGER, SESSIONS)}
_PLAIN = {"blobs", "blob_parts"}
_OF_MEMBERS = {"memberships", "limits", "audit_entries"}
"""Tables of which only the same organization gets rows."""

Progress = Callable[[str, int, int], None]


class _Line(Struct):
    t: str | None = None
    c: tuple[str, ...] = ()
    r: list[Any] | None = None
    tree: str | None = None
    sessions: tuple[str, ...] = ()
    rows: int | None = None
    sha256: str = ""


_DECODER = msgspec.json.Decoder(_Line)


def lines_of(path: Path) -> Iterator[bytes]:
    """Read the lines of an export. Raises InvalidInput (`invalid_export`)."""
    try:
        with closing(gzip.open(path)) as file:
            while line := file.readline(MAX_LINE):
                if len(line) == MAX_LINE:
                    raise bad_export("the export has a line that is too long")
                yield line
    except (gzip.BadGzipFile, zlib.error, EOFError):
        raise bad_export(f"{path} is not an export, or not a whole one: its end is missing") from None
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}", code="invalid_export") from None


def check_export(path: Path, newest_migration: int, progress: Progress) -> tuple[Header, int]:
    """Read a whole export; return its header and the number of its rows.

    Raises:
        InvalidInput: `invalid_export`: it is none, it is cut or damaged, or a newer release made it.
    """
    header: Header | None = None
    digest, rows, last = sha256(), 0, b""
    for line in lines_of(path):
        if header is None:
            header = read_header(line, newest_migration)
        if last:
            digest.update(last)
            rows += last.startswith(b'{"r":')
            progress("checking the export", rows, 0)
        last = line
    if header is None:
        raise bad_export("the file is not an export of Perdure: it is empty")
    try:
        footer = msgspec.json.decode(last, type=Footer)
    except (msgspec.DecodeError, UnicodeError):
        raise bad_export(f"{path} is not a whole export: its end is missing") from None
    if (footer.rows, footer.sha256) != (rows, digest.hexdigest()):
        raise bad_export("the export is damaged: its lines are not what its end says")
    return header, rows


def derived_id(old: str, place: str) -> str:
    """Return the id that a row gets where its own is taken: always the same one."""
    prefix, _, digits = old.rpartition("_")
    return f"{prefix}_{digits[:12]}{blake2b(f'{place}/{old}'.encode(), digest_size=10).hexdigest()}"


class Importer:
    """One import.

    Args:
        key: what secrets in the export are sealed under; None to leave them out.
        org_id: the organization that gets the rows.
        owner_id: who gets the sessions of users that are not its members.
        on_conflict: what becomes of a session that is there already: `skip`, or `copy` it under a new id.
    """

    def __init__(
        self,
        database: Database,
        vault: Vault,
        header: Header,
        *,
        key: bytes | None,
        org_id: OrgId,
        owner_id: UserId | None,
        on_conflict: OnConflict,
        now: Micros,
        progress: Progress,
    ) -> None:
        self._database, self._vault, self._key = database, vault, key
        self._header, self._org_id, self._owner_id = header, org_id, owner_id
        self._own = org_id == header.org_id
        self._on_conflict, self._now, self._progress = on_conflict, now, progress
        self._ids: dict[str, str] = {} if self._own else {header.org_id: org_id}
        self._columns: dict[str, tuple[str, ...]] = {}
        self._buffer: list[tuple[str, dict[str, Any]]] = []
        self._size = 0
        self._content: dict[str, Any] | None = None
        self._present_content = False
        self._tree: str | None = None
        self._copy: dict[str, str] | None = None
        self._skips = False
        self._sessions: list[dict[str, Any]] = []
        self._added = self._present = self._copied = self._rows = 0

    async def run(self, path: Path, total: int) -> Imported:
        """Import a file that was checked.

        Args:
            total: the number of its rows.
        """
        names: tuple[str, ...] = ()
        table, done = "", 0
        for number, text in enumerate(lines_of(path)):
            line = _DECODER.decode(text)
            if number == 0 or line.rows is not None:
                continue
            if line.tree is not None:
                await self._end_tree()
                await self._begin_tree(line.tree, line.sessions)
            elif line.t is not None:
                table, names = line.t, await self._known(line.t, line.c)
            elif line.r is not None:
                done += 1
                self._progress("importing", done, total)
                await self._row(table, dict(zip(names, map(_decoded, line.r), strict=True)))
        await self._end_tree()
        return Imported(self._org_id, self._added, self._present, self._copied, self._rows)

    async def _known(self, table: str, names: tuple[str, ...]) -> tuple[str, ...]:
        """Check a table's name and columns, which become a part of statements."""
        if table not in TABLES and table not in _PLAIN:
            raise bad_export(f"the export has an unknown table: {table[:40]!r}")
        if table not in self._columns:
            self._columns[table] = await self._database.read(lambda tx: columns_of(tx, table))
        if unknown := set(names) - set(self._columns[table]):
            raise bad_export(f"the export has unknown columns of {table}: {min(unknown)[:40]!r}")
        return names

    async def _row(self, table: str, row: dict[str, Any]) -> None:
        if self._skips:
            return
        if self._tree is None:
            if not await self._in_organization(table, row):
                return
        elif self._copy is not None and not self._in_copy(table, row):
            return
        before = dict(row)
        row = {name: self._mapped(value) for name, value in row.items()}
        if row.get("org_id", self._org_id) != self._org_id:
            if table != "users":
                raise bad_export(f"the export has rows of {table} of another organization")
            row["org_id"] = None  # who added the user is not known here
        spec = TABLES.get(table)
        if spec is not None and spec.secret is not None:
            opened = self._opened(spec, before)
            if opened is None and spec.needs_secret:
                return
            _without_secret(row) if opened is None else row.update({spec.secret[0]: _Plain(opened)})
        if table == "blobs":
            await self._end_content()
            sql = "SELECT 1 FROM blobs WHERE org_id = ? AND hash = ?"
            args = row["org_id"], row["hash"]
            self._present_content = await self._database.read(lambda tx: tx.one(sql, *args)) is not None
            self._content = row
        elif table == "blob_parts" and self._present_content:
            return
        elif table == "sessions":
            self._sessions.append(row)
        else:
            if table != "blob_parts":
                await self._end_content()
            await self._put(table, row)

    def _mapped(self, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        value = with_ids(value, self._ids)
        return value if self._copy is None else with_ids(value, self._copy)

    def _opened(self, spec: Table, row: dict[str, Any]) -> str | None:
        """Return a row's secret; None if it has none or it is left out."""
        if spec.secret is None:
            return None
        column, place = spec.secret
        sealed = row[column]
        if not isinstance(sealed, _Sealed) or self._key is None:
            return None
        try:
            return open_under(self._key, sealed.data, place.format(**row)).decode()
        except Unreadable:
            raise InvalidInput(
                "the secrets of the export were sealed under another key than this one", code="invalid_key"
            ) from None

    async def _in_organization(self, table: str, row: dict[str, Any]) -> bool:
        """Decide about a row that belongs to no session; note ids that change. Return whether to add it."""
        if table == "organizations":
            await self._add_organization(row)
            return False
        if table == "users":
            return await self._user(row["id"])
        if table in _OF_MEMBERS and not self._own:
            return False
        if "id" not in row or "org_id" not in row:
            return True
        org_id = self._mapped(row["org_id"])
        found = await self._one(f"SELECT org_id FROM {table} WHERE id = ?", row["id"])
        if found is not None and found[0] == org_id:
            return False
        if table == "harnesses" and row.get("is_built_in"):
            own = await self._one(
                "SELECT id FROM harnesses WHERE org_id = ? AND name = ? AND is_built_in = 1",
                org_id,
                row["name"],
            )
            if own is not None:
                self._ids[row["id"]] = own[0]
                return False
        if found is not None:
            self._ids[row["id"]] = derived_id(row["id"], org_id)
            if await self._one(f"SELECT 1 FROM {table} WHERE id = ?", self._ids[row["id"]]):
                return False
        unique = next((each.unique for each in OF_ORG if each.name == table), "")
        if unique and await self._one(
            f"SELECT 1 FROM {table} WHERE org_id = ? AND {unique} = ?", org_id, row[unique]
        ):
            row[unique] = f"{row[unique][:40]}-{row['id'][-6:]}"
        return True

    async def _user(self, user_id: str) -> bool:
        if self._own and self._header.session_id is None:
            return True
        member = await self._one(
            "SELECT 1 FROM memberships WHERE org_id = ? AND user_id = ?", self._org_id, user_id
        )
        if member is None and self._owner_id is not None:
            self._ids[user_id] = self._owner_id
        return False

    async def _add_organization(self, row: dict[str, Any]) -> None:
        if not self._own:
            return

        async def body(tx: Tx) -> None:
            if await tx.one("SELECT 1 FROM organizations WHERE id = ?", row["id"]) is None:
                await _insert(tx, "organizations", [row])
                await self._vault.add_org(tx, self._org_id, self._now)

        await self._database.write(body)

    async def _one(self, sql: str, *args: Value) -> Row | None:
        await self._flush()
        return await self._database.read(lambda tx: tx.one(sql, *args))

    async def _begin_tree(self, root_id: str, session_ids: Sequence[str]) -> None:
        self._tree, self._copy, self._skips = root_id, None, False
        found = await self._one("SELECT 1 FROM sessions WHERE id = ?", root_id)
        if found is not None:
            copy = derived_id(root_id, f"{self._org_id}/{self._header.created_at}")
            there = await self._one("SELECT 1 FROM sessions WHERE id = ?", copy)
            if self._on_conflict == "skip" or there is not None:
                self._skips = True
                self._present += len(session_ids)
                return
            self._copy = {root_id: copy, f"workspace_{root_id[-32:]}": f"workspace_{copy[-32:]}"}
            session_ids = [copy]
        await self._database.write(partial(_remove_leftovers, session_ids=session_ids))

    def _in_copy(self, table: str, row: dict[str, Any]) -> bool:
        """Whether a copy of the tree's first session gets this row; prepare it."""
        if table in _PLAIN:
            return True
        if table not in COPIED or self._copy is None:
            return False
        owners = {
            "workspaces": "session_id",
            "files": "workspace_id",
            "content_holds": "owner",
            "sessions": "id",
        }
        if row[owners.get(table, "session_id")] not in self._copy:
            return False
        if table == "schedules":
            self._copy[row["id"]] = derived_id(row["id"], self._copy[self._tree or ""])
        if table == "sessions":
            if row["status"] not in ("started", "idle"):
                return False  # two would do the same work
            row.update(_COPY)
        return True

    async def _put(self, table: str, row: dict[str, Any]) -> None:
        self._buffer.append((table, row))
        self._size += sum(len(each) for each in row.values() if isinstance(each, str | bytes))
        if len(self._buffer) >= BATCH_ROWS or self._size >= BATCH_BYTES:
            await self._flush()

    async def _end_content(self) -> None:
        """Add a content whose parts are there: an interrupted import never leaves one without them."""
        content, self._content = self._content, None
        if content is not None:
            await self._put("blobs", content)

    async def _flush(self) -> None:
        batch, self._buffer, self._size = self._buffer, [], 0
        if batch:
            self._rows += len(batch)
            await self._database.write(partial(self._write, batch=batch))

    async def _write(self, tx: Tx, batch: list[tuple[str, dict[str, Any]]]) -> None:
        start = 0
        for end in range(1, len(batch) + 1):
            if end == len(batch) or _shape(batch[end]) != _shape(batch[start]):
                rows = [await self._sealed(tx, *each) for each in batch[start:end]]
                await _insert(tx, batch[start][0], rows)
                start = end

    async def _sealed(self, tx: Tx, table: str, row: dict[str, Any]) -> dict[str, Any]:
        """Encrypt a row's secret for its new place."""
        spec = TABLES.get(table)
        if spec is None or spec.secret is None or not isinstance(row[spec.secret[0]], _Plain):
            return row
        column, place = spec.secret
        sealed = await self._vault.seal(tx, OrgId(row["org_id"]), row[column].text, place.format(**row))
        return {**row, column: sealed}

    async def _end_tree(self) -> None:
        """Have the sessions of a tree appear."""
        await self._end_content()
        await self._flush()
        rows, self._sessions = self._sessions, []
        if not rows:
            if self._copy is not None:  # it was in a turn
                self._present += 1
                left = [self._copy[self._tree or ""]]
                await self._database.write(partial(_remove_leftovers, session_ids=left))
            return
        if self._copy is not None:
            rows = [
                {**row, "forked_from_id": self._tree, "forked_from_sequence": row["head"]} for row in rows
            ]

        async def body(tx: Tx) -> None:
            await _insert(tx, "sessions", rows)
            for row in rows:
                if row["archived_at"] is None:
                    await count_sessions(tx, OrgId(row["org_id"]), 1, row["parent_session_id"])

        await self._database.write(body)
        self._rows += len(rows)
        self._added += 0 if self._copy else len(rows)
        self._copied += len(rows) if self._copy else 0


class _Sealed(Struct, frozen=True):
    data: bytes


class _Plain(Struct, frozen=True):
    text: str


_COPY: dict[str, object] = {
    "parent_session_id": None, "root_session_id": None, "depth": 0, "task_id": None, "ended": None,
    "news": None,
    "parked": None, "resting": 0, "wake_at": None, "epoch": 0, "recoveries": 0,
}  # fmt: skip
"""Columns of a session that is imported as a copy."""


def _shape(each: tuple[str, dict[str, Any]]) -> tuple[str, tuple[str, ...]]:
    return each[0], tuple(each[1])


def _decoded(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    try:
        if "b" in value:
            return base64.b64decode(value["b"], validate=True)
        return _Sealed(base64.b64decode(value["s"], validate=True))
    except (KeyError, TypeError, binascii.Error):
        raise bad_export("the export has a value that cannot be read") from None


def _without_secret(row: dict[str, Any]) -> None:
    """Note in a provider's or MCP server's row that it has no secret."""
    row.update({name: value for name, value in _NO_SECRET.items() if name in row})


_NO_SECRET: dict[str, object] = {
    "secrets": None, "api_key_set": 0, "header_names": "[]", "key_status": None, "key_checked_at": None,
}  # fmt: skip


async def _insert(tx: Tx, table: str, rows: Sequence[dict[str, Any]]) -> None:
    """Insert those of the rows, which have the same columns, that are not there."""
    names = tuple(rows[0])
    conflict = "DO NOTHING"
    if table == "blobs":  # one that nothing referred to any more is needed again
        conflict = "(org_id, hash) DO UPDATE SET released_at = NULL"
    sql = (
        f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
        f" ON CONFLICT {conflict}"
    )
    await tx.run_many(sql, [tuple(row.values()) for row in rows])


async def _remove_leftovers(tx: Tx, session_ids: Sequence[str]) -> None:
    """Remove what an interrupted import left of sessions that did not appear."""
    for session_id in session_ids:
        for table in reversed(OF_SESSION):
            args = [session_id] * table.where.count("?")
            await tx.run(f"DELETE FROM {table.name} WHERE {table.where}", *args)
