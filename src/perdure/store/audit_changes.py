"""What a transaction changes in one table, found from its statements."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Literal, cast

import msgspec
from msgspec import Struct

from perdure.domain.audits import MAX_ROWS, Origin, Verb
from perdure.domain.messages import JsonObject, JsonValue
from perdure.domain.times import to_rfc3339
from perdure.store.audit_tables import Watched
from perdure.store.database import LOCK_ROW, Further, NotSingle, Param, Row, Rows, Tx, Value

Stored = dict[str, Value]
"""A row's columns, by name."""


class Change(Struct, frozen=True):
    """What a transaction did to one row.

    Attributes:
        watched: the kind of entity.
        before: the row before; None if it was not there, or counted as deleted.
        after: the row after; None if it is not there, or counts as deleted.
    """

    watched: Watched
    before: Stored | None
    after: Stored | None

    @property
    def verb(self) -> Verb:
        """What was done."""
        if self.before is None:
            return "created"
        return "deleted" if self.after is None else "updated"

    @property
    def row(self) -> Stored:
        """The row as it is, or as it was before it was deleted."""
        return self.after or self.before or {}


class Names(Struct, frozen=True):
    """The names of who makes a change."""

    user: str | None
    token: str | None


async def names_of(tx: Tx, origin: Origin) -> Names:
    """Return the names of who makes a change."""
    found = await tx.one(
        "SELECT (SELECT name FROM users WHERE id = ?), (SELECT name FROM tokens WHERE id = ?)",
        origin.user_id or "",
        origin.token_id or "",
    )
    return Names(None, None) if found is None else Names(*found)


class Seen(Struct, frozen=True):
    """A row that a single statement changes, as it is unless that statement finds it changed.

    Attributes:
        private: whether it is a single user's, so that administrators do not read it either.
    """

    row: Stored
    private: bool


class _Statement(Struct, frozen=True):
    """A statement that changes a table.

    Attributes:
        columns: those that an INSERT sets, in order.
        where: which rows an UPDATE or DELETE changes, or the query whose rows an INSERT inserts.
        skipped: the arguments before those of `where`.
        sets: what an UPDATE sets.
    """

    kind: Literal["insert", "select", "update", "delete"]
    columns: tuple[str, ...] = ()
    where: str = ""
    skipped: int = 0
    sets: str = ""


_HEAD = re.compile(r"(UPDATE|DELETE FROM|INSERT INTO) (\w{1,64})")


@lru_cache(maxsize=512)
def _statement(sql: str, table: str) -> _Statement | None:
    """Read a statement; None if it changes nothing in the table.

    Raises:
        RuntimeError: it changes the table in a way that cannot be followed.
    """
    head = _HEAD.match(sql)
    if head is None or head[2] != table:
        if any(found[2] == table for found in _HEAD.finditer(sql)):
            raise RuntimeError(f"the audit log cannot follow a statement that changes {table}: {sql[:200]}")
        return None
    if head[1] == "INSERT INTO":
        return _insertion(sql[head.end() :], table)
    before, rest = _cut(sql, "WHERE")
    where, _ = _cut(rest, "RETURNING")
    if head[1] == "UPDATE":
        return _Statement(
            "update", (), where, before.count("?"), before[head.end() :].strip().removeprefix("SET ")
        )
    return _Statement("delete", (), where, before.count("?"))


@lru_cache(maxsize=256)
def _assigned(sets: str) -> tuple[tuple[str, str, int], ...]:
    """Read what an UPDATE sets: columns, their expressions, and how many arguments those have."""
    rest, found = sets, list[tuple[str, str, int]]()
    while rest:
        assignment, rest = _cut_at_comma(rest)
        name, _, expression = assignment.partition(" = ")
        found.append((name, expression, expression.count("?")))
    return tuple(found)


def _insertion(rest: str, table: str) -> _Statement:
    """Read what follows the name of the table in an INSERT."""
    names, closed, values = rest.strip().removeprefix("(").partition(")")
    if not closed:
        raise RuntimeError(f"the audit log cannot follow a statement that inserts into {table}: {rest[:200]}")
    columns = tuple(each.strip() for each in names.split(","))
    if not values.lstrip().startswith("SELECT"):
        return _Statement("insert", columns)
    query, _ = _cut(values.lstrip(), "ON CONFLICT")
    return _Statement("select", columns, query)


def _cut(sql: str, word: str) -> tuple[str, str]:
    """Split a statement at a word that is not in parentheses or in a text."""
    depth, at, quoted = 0, 0, False
    while at < len(sql):
        character = sql[at]
        if character == "'":
            quoted = not quoted
        elif not quoted:
            depth += (character == "(") - (character == ")")
            if depth == 0 and character == " " and sql.startswith(f"{word} ", at + 1):
                return sql[:at], sql[at + len(word) + 2 :]
        at += 1
    return sql, ""


class AuditedTx:
    """A transaction that notes which rows of some tables it changes.

    Args:
        inner: the transaction.
        watched: the kinds of entities, of different tables.
        origin: who makes the changes.
        record: adds what was changed to the audit log.
        entry: the entry of a change, for the statement that makes it; None if it needs none.
    """

    def __init__(
        self,
        inner: Tx,
        watched: Sequence[Watched],
        origin: Origin,
        record: Callable[[AuditedTx], Awaitable[None]],
        entry: Callable[[AuditedTx, Change, Seen], Awaitable[Further | None]],
    ) -> None:
        self.inner = inner
        self.dialect = inner.dialect
        self.traces = inner.traces
        self.single = inner.single
        self.seen: Seen | None = None
        """The row that the only statement changes, for a transaction that is `single`."""
        self.more = 0
        """Rows that were changed beyond those that are noted."""
        self.note: str | None = None
        """The reason of the change if the client gives none."""
        self.names: Names | None = None
        """The names of who makes the changes, from before the first one: it may delete them."""
        self._watched = watched
        self._origin = origin
        self._record = record
        self._entry = entry
        self._before: dict[tuple[Watched, tuple[Value, ...]], Stored | None] = {}

    async def all(self, sql: str, *args: Param) -> list[Row]:
        await self._note(sql, args)
        return await self.inner.all(sql, *args)

    async def one(self, sql: str, *args: Param) -> Row | None:
        await self._note(sql, args)
        return await self.inner.one(sql, *args)

    async def within(
        self, limit: int, large: Sequence[str], sql: str, *args: Param
    ) -> tuple[list[Row], bool]:
        return await self.inner.within(limit, large, sql, *args)

    async def run(self, sql: str, *args: Param) -> int:
        await self._note(sql, args)
        return await self.inner.run(sql, *args)

    async def run_many(self, sql: str, rows: Sequence[Sequence[Value]]) -> None:
        for args in rows:
            await self._note(sql, args)
        await self.inner.run_many(sql, rows)

    async def append(
        self, update: str, args: Sequence[Value], *inserts: Rows, further: Further | None = None
    ) -> bool:
        if self.single:
            further = await self._further(update, args, inserts, further)
            return await self.inner.append(update, args, *inserts, further=further)
        await self._note(update, args)
        for each in inserts:
            for row in each.rows:
                await self._note(each.insert, row)
        return await self.inner.append(update, args, *inserts, further=further)

    async def take_time(self) -> None:
        await self.inner.take_time()

    def after_commit(self, call: Callable[[], None]) -> None:
        self.inner.after_commit(call)

    async def _note(self, sql: str, args: Sequence[Param]) -> None:
        """Note the rows that a statement is about to change, as they are before."""
        for watched in self._watched:
            statement = _statement(sql, watched.table)
            if statement is not None:
                if self.single:
                    raise NotSingle
                self.names = self.names or await names_of(self.inner, self._origin)
                await self._note_rows(watched, statement, args)

    async def _further(
        self, update: str, args: Sequence[Param], inserts: Sequence[Rows], further: Further | None
    ) -> Further | None:
        """Return what a single statement does besides its update, with the entry of the change.

        Raises:
            NotSingle: more than the row that was noted as seen would have to be read.
        """
        for each in (each.insert for each in inserts):
            if any(_statement(each, watched.table) for watched in self._watched):
                raise NotSingle
        for watched in self._watched:
            statement = _statement(update, watched.table)
            if statement is None:
                continue
            if statement.kind != "update" or self.seen is None or further is not None or watched.history:
                raise NotSingle
            before = {name: self.seen.row[name] for name in watched.columns}
            change = Change(watched, before, _after(watched, before, statement, args))
            further = await self._entry(self, change, self.seen)
        return further

    async def _note_rows(self, watched: Watched, statement: _Statement, args: Sequence[Param]) -> None:
        match statement.kind:
            case "insert":
                given = dict(zip(statement.columns, args, strict=False))
                await self._look(watched, [tuple(given[name] for name in watched.key)])
            case "select":
                query, given_args = _inserted_keys(watched, statement, args)
                await self._look(watched, [tuple(row) for row in await self._first(query, given_args)])
            case _:
                used = args[statement.skipped : statement.skipped + statement.where.count("?")]
                sql = _select(watched, statement.where)
                for row in await self._first(sql, used, LOCK_ROW[self.dialect]):
                    stored = dict(zip(watched.columns, row, strict=True))
                    self._keep(watched, tuple(stored[name] for name in watched.key), stored)
                if (moved := _moved_keys(watched, statement, args)) is not None:
                    query, given_args = moved
                    await self._look(watched, [tuple(row) for row in await self._first(query, given_args)])

    async def _first(self, query: str, args: Sequence[Param], lock: str = "") -> list[Row]:
        """Return the first rows of a query, as many as are noted and one more, and count the others."""
        rows = await self.inner.all(f"{query} LIMIT {MAX_ROWS + 1}{lock}", *args)
        if len(rows) > MAX_ROWS:
            counted = await self.inner.one(f"SELECT COUNT(*) FROM ({query}) AS changed", *args)
            self.more += int(counted[0]) - len(rows) if counted else 0
        return rows

    async def _look(self, watched: Watched, keys: Sequence[tuple[Param, ...]]) -> None:
        """Note the rows that an INSERT would replace, or that they are not there."""
        for key in keys:
            plain = tuple(cast("Value", each) for each in key)
            if (watched, plain) not in self._before:
                self._keep(watched, plain, await self._read(watched, plain))

    def _keep(self, watched: Watched, key: tuple[Value, ...], stored: Stored | None) -> None:
        if (watched, key) in self._before:
            return
        if len(self._before) >= MAX_ROWS:
            self.more += 1
            return
        self._before[watched, key] = _present(watched, stored)

    async def _read(self, watched: Watched, key: tuple[Value, ...]) -> Stored | None:
        chosen = " AND ".join(f"{name} = ?" for name in watched.key)
        row = await self.inner.one(_select(watched, chosen), *key)
        return None if row is None else dict(zip(watched.columns, row, strict=True))

    async def record(self) -> None:
        """Add what was changed up to now to the audit log."""
        if self._before:
            await self._record(self)

    async def changes(self) -> list[Change]:
        """Return what the transaction has done to each row since this was last called."""
        found = []
        noted, self._before = self._before, {}
        for (watched, key), before in noted.items():
            after = _present(watched, await self._read(watched, key))
            if before is not None or after is not None:
                found.append(Change(watched, before, after))
        return found


def _inserted_keys(watched: Watched, statement: _Statement, args: Sequence[Param]) -> tuple[str, list[Param]]:
    """Return the query for the keys of the rows that an INSERT takes from a query, and its arguments."""
    listed, source = _cut(statement.where, "FROM")
    left, rest = iter(args), listed.removeprefix("SELECT ")
    chosen: dict[str, tuple[str, list[Param]]] = {}
    for name in statement.columns:
        expression, rest = _cut_at_comma(rest)
        chosen[name] = expression, [next(left) for _ in range(expression.count("?"))]
    used = [each for name in watched.key for each in chosen[name][1]]
    return f"SELECT {', '.join(chosen[name][0] for name in watched.key)} FROM {source}", [*used, *left]


def _moved_keys(
    watched: Watched, statement: _Statement, args: Sequence[Param]
) -> tuple[str, list[Param]] | None:
    """Return the query for the keys that rows get from an UPDATE, and its arguments; None if they stay."""
    left, chosen = iter(args), dict[str, tuple[str, list[Param]]]()
    for name, expression, count in _assigned(statement.sets):
        chosen[name] = expression, [next(left) for _ in range(count)]
    if not chosen.keys() & set(watched.key):
        return None
    parts = [chosen.get(name, (name, list[Param]())) for name in watched.key]
    used = [each for _, given in parts for each in given]
    listed = ", ".join(expression for expression, _ in parts)
    return f"SELECT {listed} FROM {watched.table} WHERE ({statement.where or '1 = 1'})", [*used, *left]


def _after(watched: Watched, before: Stored, statement: _Statement, args: Sequence[Param]) -> Stored:
    """Return a row after an UPDATE of it. Raises NotSingle: its columns do not just get arguments."""
    left, after = iter(args), dict(before)
    for name, expression, count in _assigned(statement.sets):
        given = [next(left) for _ in range(count)]
        if name in before:
            if expression != "?":
                raise NotSingle
            after[name] = cast("Value", given[0])
    return after


def _cut_at_comma(text: str) -> tuple[str, str]:
    """Split a text at the first comma that is not in parentheses."""
    depth = 0
    for at, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0 and character == ",":
            return text[:at].strip(), text[at + 1 :].strip()
    return text.strip(), ""


def _select(watched: Watched, chosen: str) -> str:
    only = f" AND {watched.only}" if watched.only else ""
    return f"SELECT {', '.join(watched.columns)} FROM {watched.table} WHERE ({chosen or '1 = 1'}){only}"


def _present(watched: Watched, stored: Stored | None) -> Stored | None:
    return None if stored is not None and watched.gone and stored[watched.gone] is not None else stored


def bare(tx: Tx) -> Tx:
    """Return the transaction itself, for code that is specific to one database."""
    return tx.inner if isinstance(tx, AuditedTx) else tx


def note_seen(tx: Tx, row: Stored, *, private: bool) -> None:
    """Say what a single statement finds in the row that it changes, if it succeeds, for the audit log."""
    if isinstance(tx, AuditedTx):
        tx.seen = Seen(row, private)


def note_reason(tx: Tx, reason: str) -> None:
    """Say why a transaction changes something, for the audit log, if the client does not."""
    if isinstance(tx, AuditedTx):
        tx.note = reason


async def record_now(tx: Tx) -> None:
    """Add what a transaction has changed to the audit log at once, to read it there."""
    if isinstance(tx, AuditedTx):
        await tx.record()


def fields_of(watched: Watched, row: Stored | None) -> JsonObject:
    """Return a row's fields that are shown, without secrets. Objects in JSON are taken apart."""
    fields: JsonObject = {}
    if row is None:
        return fields
    for name in watched.shown:
        value = row[name]
        if name.endswith(("_at", "deadline")) and isinstance(value, int):
            value = to_rfc3339(value)
        if value is not None:
            fields[name] = value
    for name in watched.json:
        decoded = _decoded(row[name])
        if isinstance(decoded, dict) and name in _TAKEN_APART:
            fields |= decoded
        elif decoded not in (None, [], {}):
            fields[name] = decoded
    return fields


_TAKEN_APART = frozenset({"config", "rules"})


def _decoded(value: Value) -> JsonValue:
    if not isinstance(value, str):
        return value if not isinstance(value, bytes) else None
    try:
        decoded: JsonValue = msgspec.json.decode(value)
    except msgspec.DecodeError:
        return value
    return decoded
