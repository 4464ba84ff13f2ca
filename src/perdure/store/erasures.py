"""Rows of erasures, and of what each of them has removed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import msgspec
from msgspec import Struct

from perdure.domain.erasures import ErasureKind, Remaining, Stage
from perdure.domain.errors import NotFound
from perdure.domain.ids import ErasureId, OrgId, UserId
from perdure.domain.times import Micros
from perdure.store.database import LOCK_ROW, Changes, Tx, overwriting
from perdure.store.rows import assignments, columns, from_json, insert, values


class ErasureRow(Struct, frozen=True):
    """An erasure.

    Attributes:
        place: how far the stage is, as JSON.
        pseudonym: what stands in place of a user's id from now on; None for a session, and at the end.
        remains: what is left, as JSON.
        taken_until: a process works on it until then, in microseconds.
    """

    id: ErasureId
    org_id: OrgId
    kind: ErasureKind
    subject_id: str
    requested_by: UserId
    stage: Stage
    place: str
    pseudonym: str | None
    remains: str
    taken_until: Micros
    created_at: Micros
    updated_at: Micros
    finished_at: Micros | None = None

    def remaining(self) -> tuple[Remaining, ...]:
        return from_json(_REMAINS, self.remains, f"the erasure {self.id}")


class Tally:
    """What a transaction removes for an erasure, by kind: items and their bytes."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[int, int]] = {}

    def add(self, kind: str, items: int, size: int = 0) -> None:
        """Note that so many items of a kind, with so many bytes, are removed."""
        if items:
            before = self.found.get(kind, (0, 0))
            self.found[kind] = (before[0] + items, before[1] + size)


_REMAINS = msgspec.json.Decoder(tuple[Remaining, ...])
_COLUMNS = columns(ErasureRow)


async def add_erasure(tx: Tx, row: ErasureRow) -> bool:
    """Insert an erasure; return False, and do nothing, if one of the same subject is running."""
    return await tx.run(f"{insert('erasures', ErasureRow)} ON CONFLICT DO NOTHING", *values(row)) == 1


async def get_erasure(tx: Tx, org_id: OrgId, erasure_id: ErasureId) -> ErasureRow:
    """Return the organization's erasure. Raises NotFound."""
    found = await tx.one(f"SELECT {_COLUMNS} FROM erasures WHERE id = ? AND org_id = ?", erasure_id, org_id)
    if found is None:
        raise NotFound("erasure")
    return ErasureRow(*found)


async def last_erasure(tx: Tx, org_id: OrgId, subject_id: str) -> ErasureRow | None:
    """Return the newest erasure of a session or user; None if there is none."""
    found = await tx.one(
        f"SELECT {_COLUMNS} FROM erasures WHERE subject_id = ? AND org_id = ?"
        " ORDER BY created_at DESC, id DESC LIMIT 1",
        subject_id,
        org_id,
    )
    return None if found is None else ErasureRow(*found)


async def list_erasures(
    tx: Tx, org_id: OrgId, requested_by: UserId | None, offset: int, limit: int
) -> tuple[list[ErasureRow], int]:
    """Return a page of erasures, newest first, and their number on all pages.

    Args:
        requested_by: only what this user asked for; None for everybody.
    """
    where, args = "org_id = ?", [org_id]
    if requested_by is not None:
        where, args = f"{where} AND requested_by = ?", [org_id, OrgId(requested_by)]
    rows = await tx.all(
        f"SELECT {_COLUMNS} FROM erasures WHERE {where} ORDER BY created_at DESC, id DESC LIMIT ? OFFSET ?",
        *args,
        limit,
        offset,
    )
    total = await tx.one(f"SELECT COUNT(*) FROM erasures WHERE {where}", *args)
    return [ErasureRow(*row) for row in rows], 0 if total is None else int(total[0])


async def running_erasures(tx: Tx, limit: int = 100) -> list[ErasureRow]:
    """Return erasures that have not finished, oldest first."""
    rows = await tx.all(
        f"SELECT {_COLUMNS} FROM erasures WHERE finished_at IS NULL ORDER BY created_at, id LIMIT ?", limit
    )
    return [ErasureRow(*row) for row in rows]


async def take_erasure(tx: Tx, erasure_id: ErasureId, now: Micros, until: Micros) -> bool:
    """Reserve an erasure for this process until an instant; return whether it was free.

    One that is reserved for longer than that is free, too: the clock has gone back.
    """
    taken = await tx.run(
        "UPDATE erasures SET taken_until = ? WHERE id = ? AND finished_at IS NULL"
        " AND (taken_until <= ? OR taken_until > ?)",
        *(until, erasure_id, now, until),
    )
    return taken == 1


async def free_erasures(tx: Tx, erasure_id: ErasureId | None = None) -> None:
    """Let other processes go on with an erasure, or with all that a process had which has ended."""
    where, args = ("finished_at IS NULL", []) if erasure_id is None else ("id = ?", [erasure_id])
    await tx.run(f"UPDATE erasures SET taken_until = 0 WHERE {where}", *args)


async def change_erasure(tx: Tx, row: ErasureRow, changes: Changes, now: Micros) -> ErasureRow:
    """Change an erasure; return its new row."""
    changes = {**changes, "updated_at": max(now, row.updated_at + 1)}
    await tx.run(f"UPDATE erasures SET {assignments(changes)} WHERE id = ?", *changes.values(), row.id)
    return msgspec.structs.replace(row, **changes)


async def lock_erasure(tx: Tx, erasure_id: ErasureId) -> ErasureRow | None:
    """Return an erasure, its row locked until the commit; None if it does not exist."""
    found = await tx.one(f"SELECT {_COLUMNS} FROM erasures WHERE id = ?{LOCK_ROW[tx.dialect]}", erasure_id)
    return None if found is None else ErasureRow(*found)


async def note_erased(tx: Tx, org_id: OrgId, erasure_id: ErasureId, tally: Tally) -> None:
    """Add what this transaction removes to the counts of an erasure."""
    for kind, (items, size) in sorted(tally.found.items()):
        await tx.run(
            "INSERT INTO erasure_counts (erasure_id, kind, org_id, items, bytes) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (erasure_id, kind) DO UPDATE SET items = erasure_counts.items + excluded.items,"
            " bytes = erasure_counts.bytes + excluded.bytes",
            erasure_id,
            kind,
            org_id,
            items,
            size,
        )


async def erased_counts(tx: Tx, ids: list[ErasureId]) -> Mapping[ErasureId, list[tuple[str, int, int]]]:
    """Return (kind, items, bytes) of what these erasures have removed, sorted by kind."""
    found: dict[ErasureId, list[tuple[str, int, int]]] = {}
    if ids:
        marks = ", ".join("?" * len(ids))
        rows = await tx.all(
            f"SELECT erasure_id, kind, items, bytes FROM erasure_counts WHERE erasure_id IN ({marks})"
            " ORDER BY erasure_id, kind",
            *ids,
        )
        for erasure_id, kind, items, size in rows:
            found.setdefault(erasure_id, []).append((kind, items, size))
    return found


@asynccontextmanager
async def erasing(tx: Tx, org_id: OrgId, erasure_id: ErasureId) -> AsyncIterator[Tally]:
    """Overwrite what the block deletes, and add what it counts to an erasure."""
    tally = Tally()
    async with overwriting(tx):
        yield tally
    await note_erased(tx, org_id, erasure_id, tally)
