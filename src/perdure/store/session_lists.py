"""Lists of sessions: filters, pages and counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from msgspec import Struct

from perdure.domain.feedback import Rating
from perdure.domain.ids import AgentId, OrgId, SessionId, UserId
from perdure.domain.sessions import ListOrder, Status
from perdure.domain.times import Micros
from perdure.store.confidential import open_to
from perdure.store.database import Row, Tx, Value
from perdure.store.rows import (
    LIST_BYTES,
    among,
    columns,
    if_long,
    like_pattern,
    listed_columns,
    to_json,
)
from perdure.store.search import candidates, searched_terms, segments_by_age
from perdure.store.sessions import BUSY, IN_TURN, SessionRow

EXACT = 200
"""Matches of a search that are counted exactly; beyond, the count is a lower bound."""

LONG = ""
"""What a list has for a long configuration, unless it is asked for it."""
_IF_SHORT = if_long("config", "''")
_SHORT_COLUMNS = columns(SessionRow).replace("config", f"{_IF_SHORT} AS config", 1)
_FEW, _MANY = 2, 64
"""The fewest (also the first) and the most segments that a search looks up at once."""
FAR = 1000
"""The largest offset at which a list reads whole rows. Beyond, it reads ids from the nearer end of the list,
of which an index has many on a page, then the rows of the page."""
_COMPARED = 400
"""The fewest candidates that are compared at once, except at the end of a step."""

_ORDERS: dict[ListOrder, str] = {
    "created_at": "created_at DESC, id DESC",
    # No index has this order, because every append would then change the index.
    "last_activity": "updated_at DESC, id DESC",
}

COUNTED = 5_000
"""Matches of other filters that are counted exactly; beyond, the count is a lower bound."""

Key = tuple[Micros, SessionId]
"""The sort key of lists, greatest first: the time of creation, and the id."""


class SessionFilter(Struct, frozen=True):
    """The conditions for a list of sessions; None and an empty tuple mean any."""

    agent_id: AgentId | None = None
    search: str | None = None
    tags: tuple[str, ...] = ()
    statuses: tuple[Status, ...] = ()
    sources: tuple[str, ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()
    owner_id: UserId | None = None
    pinned_by: UserId | None = None
    created_after: Micros | None = None
    created_before: Micros | None = None
    archived: Literal["without", "with", "only"] = "without"
    feedback: Rating | None = None
    parent_id: SessionId | None = None
    root_id: SessionId | None = None
    """Only sessions below this one, at any depth."""
    reader_id: UserId | None = None
    """Who reads: without the sessions that are closed to this user."""

    def slow(self) -> bool:
        """Whether the conditions are compared with many sessions, because no index has them."""
        return self.search is not None or bool(self.tags or self.metadata)

    def few(self) -> bool:
        """Whether an index has only the sessions in these statuses, which are few at any time."""
        return bool(self.statuses) and set(self.statuses) <= set(IN_TURN)

    def in_tree(self) -> bool:
        """Whether an index has only the sessions of a tree."""
        return self.parent_id is not None or self.root_id is not None


def _where(org_id: OrgId, filters: SessionFilter, *, indexed: bool = True) -> tuple[str, list[Value]]:
    """Return the SQL condition and its arguments.

    Args:
        indexed: whether the index on open or archived sessions may be used. A search reads other indexes, and
            SQLite would prefer this one, which has all sessions of an organization.
    """
    parts = ["org_id = ? AND deleted_at IS NULL"]
    args: list[Value] = [org_id]
    plain: list[tuple[str, Value]] = [
        ("agent_id = ?", filters.agent_id),
        ("owner_id = ?", filters.owner_id),
        ("parent_session_id = ?", filters.parent_id),
        ("root_session_id = ?", filters.root_id),
        ("created_at > ?", filters.created_after),
        ("created_at < ?", filters.created_before),
        (
            "title_folded LIKE LOWER(?) ESCAPE '!'",
            None if filters.search is None else like_pattern(filters.search),
        ),
    ]
    for sql, value in plain:
        if value is not None:
            parts.append(sql)
            args.append(value)
    if filters.archived != "with":
        column = "archived_at" if indexed else "COALESCE(archived_at, NULL)"
        parts.append(f"{column} IS {'NULL' if filters.archived == 'without' else 'NOT NULL'}")
    if filters.few():
        parts.append(BUSY)
    for column, choices in (("status", filters.statuses), ("source", filters.sources)):
        if choices:
            parts.append(f"{column} IN ({', '.join('?' * len(choices))})")
            args += choices
    for name, text in filters.metadata:
        # Names have no quotes, and quotes in texts are escaped, so this finds whole entries only. LIKE would
        # ignore case on SQLite.
        parts.append("REPLACE(metadata, ?, '') <> metadata")
        args.append(f"{to_json(name)}:{to_json(text)}")
    if filters.pinned_by is not None:
        parts.append("id IN (SELECT session_id FROM pins WHERE user_id = ? AND org_id = ?)")
        args += [filters.pinned_by, org_id]
    if filters.reader_id is not None:
        parts.append(open_to("sessions"))
        args.append(filters.reader_id)
    if filters.feedback is not None:
        parts.append("id IN (SELECT session_id FROM feedback WHERE org_id = ? AND rating = ?)")
        args += [org_id, filters.feedback]
    for tag in filters.tags:
        # The JSON array has each tag between quotes and escapes quotes within a tag, so this matches whole
        # tags only.
        parts.append("tags LIKE ? ESCAPE '!'")
        args.append(like_pattern(to_json(tag)))
    return " AND ".join(parts), args


def _columns(tx: Tx, long: bool) -> str:
    if not long:
        return _SHORT_COLUMNS
    return listed_columns(SessionRow, tx.dialect, "config", ("initial_files", "hints"))


async def list_sessions(
    tx: Tx,
    org_id: OrgId,
    filters: SessionFilter,
    offset: int,
    limit: int,
    order: ListOrder = "created_at",
    *,
    long: bool = False,
) -> tuple[list[SessionRow], int]:
    """Return a page, newest or most recently active first, and the number of all matches.

    A page ends after `LIST_BYTES`. With `long`, long configurations come without files and hints; otherwise
    there is `LONG` instead, because it takes long to read them.

    With a text or tags the number is exact up to `EXACT`, with other filters up to `COUNTED`. A larger number
    that is also beyond the end of the page is a lower bound.
    """
    by_age = order == "created_at"
    if by_age and (filters.search is not None or filters.tags):
        return await _search(tx, org_id, filters, offset, limit, long)
    where, args = _where(org_id, filters)
    enough = max(offset + limit, COUNTED) + 1

    async def count() -> int:
        """Count the matches, up to `enough`.

        Without a filter, the number is the total that every creation and deletion updates.
        """
        if filters == SessionFilter():
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

    if by_age and offset > FAR:
        total = await count()
        after_page = total - offset - limit if filters == SessionFilter() or total < enough else None
        ids = await _far_ids(tx, where, args, offset, limit, after_page)
        return await _rows(tx, org_id, ids, long), total
    rows, cut = await tx.within(
        LIST_BYTES,
        ("config",),
        f"SELECT {_columns(tx, long)} FROM sessions WHERE {where} ORDER BY {_ORDERS[order]} LIMIT ? OFFSET ?",
        *args,
        limit,
        offset,
    )
    found = [SessionRow(*row) for row in rows]
    ends = len(found) < limit and not cut and (found or not offset)
    return found, offset + len(found) if ends else await count()


async def count_by_status(tx: Tx, org_id: OrgId) -> dict[str, int]:
    """Return the number of the organization's sessions in each status, and `archived` for archived ones."""
    status = "CASE WHEN archived_at IS NULL THEN status ELSE 'archived' END"
    rows = await tx.all(
        f"SELECT {status}, COUNT(*) FROM sessions WHERE org_id = ? AND deleted_at IS NULL GROUP BY {status}",
        org_id,
    )
    return {row[0]: row[1] for row in rows}


async def count_by(
    tx: Tx, org_id: OrgId, filters: SessionFilter, column: Literal["status", "source", "agent_id"]
) -> dict[str, int]:
    """Return the number of the matching sessions for each value of a column: for the 50 most frequent."""
    where, args = _where(org_id, filters)
    rows = await tx.all(
        f"SELECT {column}, COUNT(*) FROM sessions WHERE {where} AND {column} IS NOT NULL"
        f" GROUP BY {column} ORDER BY COUNT(*) DESC, {column} LIMIT 50",
        *args,
    )
    return {row[0]: row[1] for row in rows}


async def _far_ids(
    tx: Tx, where: str, args: Sequence[Value], offset: int, length: int, after_page: int | None
) -> list[SessionId]:
    """Return the ids of a page far from the newest session, found from the oldest if that end is nearer.

    Args:
        length: the sessions of a full page.
        after_page: the number of sessions after the page, negative if the page is not full; None if unknown.
    """
    direction, skipped = "DESC", offset
    if after_page is not None and after_page < offset:
        direction, skipped, length = "ASC", max(after_page, 0), length + min(after_page, 0)
    if length <= 0:
        return []
    page = (
        f"SELECT id FROM sessions WHERE {where} ORDER BY created_at {direction}, id {direction}"
        " LIMIT ? OFFSET ?"
    )
    return [row[0] for row in await tx.all(page, *args, length, skipped)]


async def _rows(tx: Tx, org_id: OrgId, session_ids: Sequence[SessionId], long: bool) -> list[SessionRow]:
    """Return the first of these sessions, newest first, up to `LIST_BYTES`.

    The ids are arguments, because PostgreSQL would read all sessions for a subquery.
    """
    chosen, ids = among(tx.dialect, "id", "TEXT", session_ids)
    rows, _ = await tx.within(
        LIST_BYTES,
        ("config",),
        f"SELECT {_columns(tx, long)} FROM sessions WHERE {chosen} AND org_id = ?"
        " ORDER BY created_at DESC, id DESC",
        ids,
        org_id,
    )
    return [SessionRow(*row) for row in rows]


async def _search(
    tx: Tx, org_id: OrgId, filters: SessionFilter, offset: int, limit: int, long: bool
) -> tuple[list[SessionRow], int]:
    where, args = _where(org_id, filters, indexed=False)
    enough = max(offset + limit, EXACT) + 1
    newest_first = f"ORDER BY created_at DESC, id DESC LIMIT {enough}"
    if filters.pinned_by is not None or filters.few() or filters.in_tree():
        # These sessions are few, and have indexes of their own.
        keys = _keys(await tx.all(f"SELECT created_at, id FROM sessions WHERE {where} {newest_first}", *args))
        total = len(keys)
    else:
        # Unsorted sessions first: one that is indexed between the two reads is then found twice, not missed.
        unsorted = await tx.all(
            f"SELECT created_at, id FROM sessions WHERE {where} AND search_slot IS NULL {newest_first}", *args
        )
        keys, total = await _search_index(tx, org_id, filters, _keys(unsorted), offset + limit, enough)
    page = sorted(keys, reverse=True)[offset : offset + limit]
    if not page:
        return [], min(total, enough)
    return await _rows(tx, org_id, [key[1] for key in page], long), min(total, enough)


def _keys(rows: Sequence[Row]) -> set[Key]:
    return {(created_at, session_id) for created_at, session_id in rows}


async def _search_index(
    tx: Tx, org_id: OrgId, filters: SessionFilter, keys: set[Key], needed: int, enough: int
) -> tuple[set[Key], int]:
    """Search the segments, newest first, until the page is complete and enough matches are counted.

    Args:
        keys: the matches outside the index.
        needed: the number of newest keys that the page needs.
        enough: the number of matches at which to stop counting.

    Returns:
        The keys found, which include the newest `needed` ones, and the number of matches counted.
    """
    ages, folded = await segments_by_age(tx, org_id, filters.search)
    if not ages:
        return keys, len(keys)
    where, args = _where(org_id, filters, indexed=False)
    terms = searched_terms(folded, filters.tags, filters.agent_id)
    total, begin, size = len(keys), 0, _FEW

    def settled(newest: Micros) -> bool:
        """Return whether the page needs no session that is as old as this, or older."""
        return sum(created_at > newest for created_at, _ in keys) >= needed

    while begin < len(ages) and not (total >= enough and settled(ages[begin][1])):
        step, begin = ages[begin : begin + size], begin + size
        slots = await candidates(tx, org_id, [segment for segment, _ in step], terms)
        for newest, batch in _batches(step, slots):
            if not settled(newest):
                match, chosen = among(tx.dialect, "search_slot", "BIGINT", batch)
                rows = await tx.all(
                    f"SELECT created_at, id FROM sessions WHERE {where} AND {match}", *args, chosen
                )
                more = _keys(rows) - keys
                keys, total = keys | more, total + len(more)
                continue
            left = batch
            while left and total < enough:  # the page is complete: count, but hardly more than enough
                some = (enough - total) * 5 // 4
                match, chosen = among(tx.dialect, "search_slot", "BIGINT", left[:some])
                counted = await tx.one(
                    f"SELECT COUNT(*) FROM sessions WHERE {where} AND {match}", *args, chosen
                )
                left, total = left[some:], total + (0 if counted is None else counted[0])
        # Next, as many segments as hold the missing matches at the present rate, and half as many again.
        size = min(_MANY, max(_FEW, (enough - total) * begin * 3 // (2 * max(total, 1))))
    return keys, total


def _batches(
    step: Sequence[tuple[int, Micros]], slots: dict[int, list[int]]
) -> Iterator[tuple[Micros, list[int]]]:
    """Batch the segments' candidates, at least `_COMPARED` to a batch.

    Each batch comes with the creation time of the newest session that may be in it or in a later one.
    """
    batch: list[int] = []
    youngest = 0
    for index, (segment, newest) in enumerate(step):
        youngest = youngest if batch else newest
        batch = batch + slots.get(segment, [])
        if len(batch) >= _COMPARED or (batch and index == len(step) - 1):
            yield youngest, batch
            batch = []
