"""The index that finds sessions by title, tag and agent among very many.

A session has *terms*: every run of one, two or three characters of its folded title, its tags and its agent.
Sessions are
sorted into *segments*, some thousand at a time: a row for each term of a segment says, as a set of positions,
which of its sessions have it. Whoever has all terms of what is searched is a candidate, and is compared with
it.

A segment never changes. A session's `search_slot` (its segment and position) is where the index has it as it
is now, or NULL when it is new or was changed since: those are few, and a search compares them all. The worker
sorts them in when they have become as many as a segment takes, so that writing a title costs nothing. What
has left a segment stays in its rows as a candidate with nobody behind it, until half of the segment has left
and the other half is sorted in anew.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import msgspec
from msgspec import Struct

from perdure.domain.ids import AgentId, OrgId, SessionId
from perdure.domain.times import Micros
from perdure.store.database import Tx
from perdure.store.rows import among

SEGMENT = 2048
"""Sessions in a segment: as many as a search may compare one by one."""

RUN = 3
"""Characters in the longest runs that are terms."""

MOST_RUNS = 6
"""Runs of a long text that are looked up: by then the candidates are few."""

_BITMAP = SEGMENT // 8
_TAG, _AGENT = "\x1e", "\x1f"
"""Begin the terms that are no part of a title: control characters, which no title holds."""
_TAGS = msgspec.json.Decoder(tuple[str, ...])


class Unsorted(Struct, frozen=True):
    """What the index needs of a session that it does not have.

    `title` is as the database folds it, `tags` are JSON.
    """

    id: SessionId
    created_at: Micros
    title: str | None
    tags: str
    agent_id: AgentId | None


def terms_of(session: Unsorted) -> set[str]:
    """A session's terms."""
    title = session.title or ""
    terms = {title[i : i + length] for length in range(1, RUN + 1) for i in range(len(title) - length + 1)}
    if session.tags != "[]":
        terms.update(_TAG + tag for tag in _TAGS.decode(session.tags))
    if session.agent_id is not None:
        terms.add(_AGENT + session.agent_id)
    return terms


def searched_terms(title: str | None, tags: Sequence[str], agent_id: AgentId | None) -> list[str]:
    """The terms that a session has which holds the text in its title, and has these tags and this agent."""
    terms = [_TAG + tag for tag in tags]
    if agent_id is not None:
        terms.append(_AGENT + agent_id)
    if title is not None and len(title) < RUN:
        terms.append(title)
    elif title is not None:
        runs = [title[i : i + RUN] for i in range(len(title) - RUN + 1)]
        terms += runs[:: -(-len(runs) // MOST_RUNS)]
    return list(dict.fromkeys(terms))


def pack(positions: Sequence[int]) -> bytes:
    """A set of a segment's positions.

    Two bytes for each if they are few, else a bit for each that there is.
    """
    if len(positions) * 2 < _BITMAP:
        return struct.pack(f"<{len(positions)}H", *positions)
    bits = bytearray(_BITMAP)
    for position in positions:
        bits[position >> 3] |= 1 << (position & 7)
    return bytes(bits)


def unpack(members: bytes) -> int:
    """The set as an integer's bits."""
    if len(members) == _BITMAP:
        return int.from_bytes(members, "little")
    bits = 0
    for position in struct.unpack(f"<{len(members) // 2}H", members):
        bits |= 1 << position
    return bits


def _positions(bits: int) -> Iterator[int]:
    """The set's members, the highest first: within a segment the youngest session comes last."""
    while bits:
        position = bits.bit_length() - 1
        yield position
        bits ^= 1 << position


def sort_terms(sessions: Sequence[Unsorted]) -> list[tuple[str, bytes]]:
    """The rows of a segment of these sessions. It takes some 50 ms of computing: not for an event loop."""
    members: dict[str, list[int]] = {}
    for position, session in enumerate(sessions):
        for term in terms_of(session):
            members.setdefault(term, []).append(position)
    return sorted((term, pack(positions)) for term, positions in members.items())


async def large_organizations(tx: Tx) -> list[OrgId]:
    """Organizations that have segments, or sessions enough for one."""
    rows = await tx.all(
        "SELECT org_id FROM session_totals GROUP BY org_id HAVING SUM(sessions) >= ?"
        " UNION SELECT org_id FROM search_segments",
        SEGMENT,
    )
    return [row[0] for row in rows]


async def last_segment(tx: Tx, org_id: OrgId) -> int:
    """The number of the last segment that was made; -1 if there is none."""
    found = await tx.one("SELECT MAX(segment) FROM search_segments WHERE org_id = ?", org_id)
    return -1 if found is None or found[0] is None else int(found[0])


_UNSORTED = "org_id = ? AND search_slot IS NULL AND deleted_at IS NULL"


async def read_unsorted(tx: Tx, org_id: OrgId) -> list[Unsorted]:
    """The oldest sessions that the index does not have, as many as make a segment.

    None if there are fewer.
    """
    order = "ORDER BY created_at, id LIMIT"
    if (
        await tx.one(f"SELECT 1 FROM sessions WHERE {_UNSORTED} {order} 1 OFFSET {SEGMENT - 1}", org_id)
        is None
    ):
        return []
    rows = await tx.all(
        "SELECT id, created_at, title_folded, tags, agent_id FROM sessions"
        f" WHERE {_UNSORTED} {order} {SEGMENT}",
        org_id,
    )
    return [Unsorted(*row) for row in rows]


async def add_segment(
    tx: Tx, org_id: OrgId, segment: int, sessions: Sequence[Unsorted], terms: Sequence[tuple[str, bytes]]
) -> bool:
    """Write a segment, and give those of its sessions that are still as they were read their slots.

    Returns:
        Whether it was written: another process may have taken the number, and most likely the sessions.
    """
    newest = max(session.created_at for session in sessions)
    made = await tx.run(
        "INSERT INTO search_segments (org_id, segment, newest) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        org_id,
        segment,
        newest,
    )
    if not made:
        return False
    await tx.run_many(
        "INSERT INTO search_terms (org_id, segment, term, members) VALUES (?, ?, ?, ?)",
        [(org_id, segment, term, members) for term, members in terms],
    )
    await tx.run_many(
        # Nothing here may look like the condition of an index: PostgreSQL is to find each row by its id.
        "UPDATE sessions SET search_slot = ? WHERE id = ? AND COALESCE(search_slot, -1) = -1"
        " AND COALESCE(title_folded, '') = ?"
        " AND tags = ?",
        [
            (segment * SEGMENT + position, session.id, session.title or "", session.tags)
            for position, session in enumerate(sessions)
        ],
    )
    return True


async def thin_segments(tx: Tx, org_id: OrgId) -> list[int]:
    """Segments that more than half of their sessions have left."""
    counted = await tx.all(
        f"SELECT search_slot / {SEGMENT}, COUNT(*) FROM sessions WHERE org_id = ? AND search_slot IS NOT NULL"
        f" AND deleted_at IS NULL GROUP BY search_slot / {SEGMENT}",
        org_id,
    )
    live: dict[int, int] = {row[0]: row[1] for row in counted}
    rows = await tx.all("SELECT segment FROM search_segments WHERE org_id = ?", org_id)
    return [segment for (segment,) in rows if live.get(segment, 0) * 2 < SEGMENT]


async def drop_segment(tx: Tx, org_id: OrgId, segment: int) -> None:
    """Remove a segment; whoever is still in it is to be sorted in anew."""
    await tx.run(
        "UPDATE sessions SET search_slot = NULL WHERE org_id = ? AND search_slot >= ? AND search_slot < ?"
        " AND deleted_at IS NULL",
        org_id,
        segment * SEGMENT,
        (segment + 1) * SEGMENT,
    )
    for table in ("search_terms", "search_segments"):
        await tx.run(f"DELETE FROM {table} WHERE org_id = ? AND segment = ?", org_id, segment)


async def segments_by_age(
    tx: Tx, org_id: OrgId, text: str | None
) -> tuple[list[tuple[int, Micros]], str | None]:
    """The organization's segments, the youngest first, with when the youngest session of each was created.

    If there are any, also the text as the database folds titles.
    """
    rows = await tx.all(
        "SELECT segment, newest, (SELECT LOWER(CAST(? AS TEXT))) FROM search_segments WHERE org_id = ?"
        " ORDER BY newest DESC, segment DESC",
        text,
        org_id,
    )
    return [(row[0], row[1]) for row in rows], rows[0][2] if rows else None


async def candidates(
    tx: Tx, org_id: OrgId, segments: Sequence[int], terms: Sequence[str]
) -> dict[int, list[int]]:
    """The slots, by segment, of the sessions that have all of these terms (or had: some may have left)."""
    in_segments, first = among(tx.dialect, "segment", "BIGINT", segments)
    in_terms, second = among(tx.dialect, "term", "TEXT", terms)
    rows = await tx.all(
        f"SELECT segment, members FROM search_terms WHERE org_id = ? AND {in_segments} AND {in_terms}",
        org_id,
        first,
        second,
    )
    held: dict[int, list[bytes]] = {}
    for segment, members in rows:
        held.setdefault(segment, []).append(members)
    found = {}
    for segment, sets in held.items():
        if len(sets) == len(terms):
            bits = -1
            for members in sorted(sets, key=len):
                bits &= unpack(members)
                if not bits:
                    break
            found[segment] = [segment * SEGMENT + position for position in _positions(bits)]
    return found
