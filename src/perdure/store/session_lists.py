"""Lists of sessions: filters, pages, and how many there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from perdure.domain.ids import AgentId, OrgId, SessionId, UserId
from perdure.domain.sessions import Status
from perdure.domain.times import Micros
from perdure.store.database import Row, Tx, Value
from perdure.store.rows import among, columns, like_pattern, to_json
from perdure.store.search import candidates, searched_terms, segments_by_age
from perdure.store.sessions import BUSY, BUSY_STATUSES, SessionRow

EXACT = 200
"""A search counts so many matches; of more it says that there are more."""

_COLUMNS = columns(SessionRow)
_FEW, _MANY = 2, 64
"""Segments that a search looks up at once: at first and at least, and at most."""
FAR = 1000
"""Rows that are passed over as they are; of further ones, by their ids alone, the fewer: an index has many of
them on a page."""
_COMPARED = 400
"""Candidates that are compared at once, at least."""

COUNTED = 5_000
"""What other filters match is counted so far."""

Key = tuple[Micros, SessionId]
"""What lists are ordered by, the greatest first: when the session was created, and its id."""


class SessionFilter(Struct, frozen=True):
    """What a list of sessions is narrowed by; None means any."""

    agent_id: AgentId | None = None
    search: str | None = None
    tags: tuple[str, ...] = ()
    status: Status | None = None
    pinned_by: UserId | None = None
    created_after: Micros | None = None
    created_before: Micros | None = None


def _where(org_id: OrgId, want: SessionFilter) -> tuple[str, list[Value]]:
    parts = ["org_id = ? AND deleted_at IS NULL"]
    args: list[Value] = [org_id]
    plain: list[tuple[str, Value]] = [
        ("agent_id = ?", want.agent_id),
        (f"{BUSY} AND status = ?" if want.status in BUSY_STATUSES else "status = ?", want.status),
        ("created_at > ?", want.created_after),
        ("created_at < ?", want.created_before),
        ("title_folded LIKE LOWER(?) ESCAPE '!'", None if want.search is None else like_pattern(want.search)),
    ]
    for sql, value in plain:
        if value is not None:
            parts.append(sql)
            args.append(value)
    if want.pinned_by is not None:
        parts.append("id IN (SELECT session_id FROM pins WHERE user_id = ? AND org_id = ?)")
        args += [want.pinned_by, org_id]
    for tag in want.tags:
        # A tag stands in the JSON array between quotes; its own quotes are escaped there, so this finds whole
        # tags only.
        parts.append("tags LIKE ? ESCAPE '!'")
        args.append(like_pattern(to_json(tag)))
    return " AND ".join(parts), args


async def list_sessions(
    tx: Tx, org_id: OrgId, want: SessionFilter, offset: int, limit: int
) -> tuple[list[SessionRow], int]:
    """A page, newest first, and how many match in all.

    With a text or tags to search for, the number is exact up to `EXACT`, with other filters up to `COUNTED`;
    above that, and above the end of the page, it means that there are at least so many.
    """
    if want.search is not None or want.tags:
        return await _search(tx, org_id, want, offset, limit)
    where, args = _where(org_id, want)
    enough = max(offset + limit, COUNTED) + 1

    async def count() -> int:
        """How many match.

        All sessions are counted as they come and go, those of a filter here, no more than are `enough`.
        """
        if want == SessionFilter():
            found = await tx.one(
                "SELECT CAST(COALESCE(SUM(sessions), 0) AS BIGINT) FROM session_totals WHERE org_id = ?",
                org_id,
            )
        else:
            found = await tx.one(
                f"SELECT COUNT(*) FROM (SELECT 1 FROM sessions WHERE {where} LIMIT ?) AS matching",
                *args,
                enough,
            )
        return 0 if found is None else int(found[0])

    if offset > FAR:
        total = await count()
        behind = total - offset - limit if want == SessionFilter() or total < enough else None
        return await _rows(tx, org_id, await _far_ids(tx, where, args, offset, limit, behind)), total
    rows = await tx.all(
        f"SELECT {_COLUMNS} FROM sessions WHERE {where} ORDER BY created_at DESC, id DESC LIMIT ? OFFSET ?",
        *args,
        limit,
        offset,
    )
    found = [SessionRow(*row) for row in rows]
    ends = len(found) < limit and (found or not offset)
    return found, offset + len(found) if ends else await count()


async def count_by_status(tx: Tx, org_id: OrgId) -> dict[Status, int]:
    """How many sessions there are in each status."""
    rows = await tx.all(
        "SELECT status, COUNT(*) FROM sessions WHERE org_id = ? AND deleted_at IS NULL GROUP BY status",
        org_id,
    )
    return {row[0]: row[1] for row in rows}


async def _far_ids(
    tx: Tx, where: str, args: Sequence[Value], offset: int, length: int, behind: int | None
) -> list[SessionId]:
    """The sessions of a page of so many far from the newest, counted from the oldest if that is nearer.

    Args:
        behind: how many sessions follow the page (less than 0: so many are missing at its end); None if
            nobody knows.
    """
    direction, skipped = "DESC", offset
    if behind is not None and behind < offset:
        direction, skipped, length = "ASC", max(behind, 0), length + min(behind, 0)
    if length <= 0:
        return []
    page = (
        f"SELECT id FROM sessions WHERE {where} ORDER BY created_at {direction}, id {direction}"
        " LIMIT ? OFFSET ?"
    )
    return [row[0] for row in await tx.all(page, *args, length, skipped)]


async def _rows(tx: Tx, org_id: OrgId, session_ids: Sequence[SessionId]) -> list[SessionRow]:
    """These sessions, the newest first.

    Their ids come by themselves: PostgreSQL would read all sessions for a subquery.
    """
    chosen, ids = among(tx.dialect, "id", "TEXT", session_ids)
    rows = await tx.all(f"SELECT {_COLUMNS} FROM sessions WHERE {chosen} AND org_id = ?", ids, org_id)
    return sorted((SessionRow(*row) for row in rows), key=lambda row: (row.created_at, row.id), reverse=True)


async def _search(
    tx: Tx, org_id: OrgId, want: SessionFilter, offset: int, limit: int
) -> tuple[list[SessionRow], int]:
    where, args = _where(org_id, want)
    enough = max(offset + limit, EXACT) + 1
    newest_first = f"ORDER BY created_at DESC, id DESC LIMIT {enough}"
    if want.pinned_by is not None or want.status in BUSY_STATUSES:
        # These are few, and indexes of their own lead to them.
        keys = _keys(await tx.all(f"SELECT created_at, id FROM sessions WHERE {where} {newest_first}", *args))
        total = len(keys)
    else:
        # First what is not in the index: what is sorted in between the two looks is seen twice then, rather
        # than not at all.
        unsorted = await tx.all(
            f"SELECT created_at, id FROM sessions WHERE {where} AND search_slot IS NULL {newest_first}", *args
        )
        keys, total = await _sorted_in(tx, org_id, want, _keys(unsorted), offset + limit, enough)
    page = sorted(keys, reverse=True)[offset : offset + limit]
    if not page:
        return [], min(total, enough)
    return await _rows(tx, org_id, [key[1] for key in page]), min(total, enough)


def _keys(rows: Sequence[Row]) -> set[Key]:
    return {(created_at, session_id) for created_at, session_id in rows}


async def _sorted_in(
    tx: Tx, org_id: OrgId, want: SessionFilter, keys: set[Key], certain: int, enough: int
) -> tuple[set[Key], int]:
    """Go through the index, the youngest segments first, until the page is certain and there are enough.

    Args:
        keys: what matches outside of the index.
        certain: how many of the first keys the page needs.
    """
    ages, folded = await segments_by_age(tx, org_id, want.search)
    if not ages:
        return keys, len(keys)
    where, args = _where(org_id, want)
    terms = searched_terms(folded, want.tags, want.agent_id)
    total, begin, size = len(keys), 0, _FEW

    def settled(newest: Micros) -> bool:
        """Whether nothing that is as old as this, or older, belongs on the page."""
        return sum(created_at > newest for created_at, _ in keys) >= certain

    while begin < len(ages) and not (total >= enough and settled(ages[begin][1])):
        step, begin = ages[begin : begin + size], begin + size
        slots = await candidates(tx, org_id, [segment for segment, _ in step], terms)
        for newest, batch in _batches(step, slots):
            if not settled(newest):
                match, wanted = among(tx.dialect, "search_slot", "BIGINT", batch)
                more = (
                    _keys(
                        await tx.all(
                            f"SELECT created_at, id FROM sessions WHERE {where} AND {match}", *args, wanted
                        )
                    )
                    - keys
                )
                keys, total = keys | more, total + len(more)
                continue
            left = batch
            while left and total < enough:  # only their number matters, and not of many more than are needed
                some = (enough - total) * 5 // 4
                match, wanted = among(tx.dialect, "search_slot", "BIGINT", left[:some])
                counted = await tx.one(
                    f"SELECT COUNT(*) FROM sessions WHERE {where} AND {match}", *args, wanted
                )
                left, total = left[some:], total + (0 if counted is None else counted[0])
        # As many more as are likely to hold what is missing, if the older ones are like those that were
        # looked up.
        size = min(_MANY, max(_FEW, (enough - total) * begin * 3 // (2 * max(total, 1))))
    return keys, total


def _batches(
    step: Sequence[tuple[int, Micros]], slots: dict[int, list[int]]
) -> Iterator[tuple[Micros, list[int]]]:
    """The segments' candidates, some hundred at a time.

    With each batch comes the age of the youngest session that may be in it or after it.
    """
    batch: list[int] = []
    youngest = 0
    for index, (segment, newest) in enumerate(step):
        youngest = youngest if batch else newest
        batch = batch + slots.get(segment, [])
        if len(batch) >= _COMPARED or (batch and index == len(step) - 1):
            yield youngest, batch
            batch = []
