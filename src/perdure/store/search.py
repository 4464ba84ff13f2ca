"""The index that finds sessions by title, tag and agent among very many.

A session's *terms* are every run of one, two or three characters of its folded title, its tags and its agent.
The index consists of *segments* of `SEGMENT` sessions. For each term of a segment, a row stores the set of
positions of the sessions that have it. A session that has all terms of a search is a candidate, which the
search then compares with the filter itself.

A segment never changes. A session's `search_slot` (its segment and position) says where the index has it; it
is NULL for a session that is new or has changed since. Those are few, and a search compares them all. The
worker indexes them once they fill a segment, so that writing a title costs nothing. A session that has left
its segment stays in the segment's rows as a false candidate. Once half of a segment has left, the segment is
dropped and the other half is indexed again.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence

import msgspec
from msgspec import Struct

from perdure.domain.ids import AgentId, OrgId, SessionId
from perdure.domain.times import Micros
from perdure.store.database import Tx
from perdure.store.rows import among

SEGMENT = 2048
"""Sessions in a segment, and so the most without one that a search compares one by one."""

RUN = 3
"""Characters in the longest terms of a title."""

MOST_RUNS = 6
"""The most terms of a long text that a search looks up; they leave few candidates."""

_BITMAP = SEGMENT // 8
_TAG, _AGENT = "\x1e", "\x1f"
"""Prefixes of the terms for tags and agents: control characters, which titles do not contain."""
_TAGS = msgspec.json.Decoder(tuple[str, ...])


class Unsorted(Struct, frozen=True):
    """The fields of a session that the index needs.

    `title` has the database's case folding, `tags` are JSON.
    """

    id: SessionId
    created_at: Micros
    title: str | None
    tags: str
    agent_id: AgentId | None


def terms_of(session: Unsorted) -> set[str]:
    """Return a session's terms."""
    title = session.title or ""
    terms = {title[i : i + length] for length in range(1, RUN + 1) for i in range(len(title) - length + 1)}
    if session.tags != "[]":
        with contextlib.suppress(msgspec.DecodeError):  # a damaged row must not keep the others out
            terms.update(_TAG + tag for tag in _TAGS.decode(session.tags))
    if session.agent_id is not None:
        terms.add(_AGENT + session.agent_id)
    return terms


def searched_terms(title: str | None, tags: Sequence[str], agent_id: AgentId | None) -> list[str]:
    """Return terms of each session with this text in its title, these tags and this agent.

    Args:
        title: a part of a title, folded by the database.
    """
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
    """Encode a set of positions in a segment.

    A small set takes two bytes per member, a larger one a bit per position.
    """
    if len(positions) * 2 < _BITMAP:
        return struct.pack(f"<{len(positions)}H", *positions)
    bits = bytearray(_BITMAP)
    for position in positions:
        bits[position >> 3] |= 1 << (position & 7)
    return bytes(bits)


def unpack(members: bytes) -> int:
    """Decode a set of positions into the bits of an integer."""
    if len(members) == _BITMAP:
        return int.from_bytes(members, "little")
    bits = 0
    for position in struct.unpack(f"<{len(members) // 2}H", members):
        bits |= 1 << position
    return bits


def _positions(bits: int) -> Iterator[int]:
    """Iterate over the set, highest position first, so that the newest sessions of a segment come first."""
    while bits:
        position = bits.bit_length() - 1
        yield position
        bits ^= 1 << position


def sort_terms(sessions: Sequence[Unsorted]) -> list[tuple[str, bytes]]:
    """Compute a segment's rows for these sessions. Takes about 50 ms of CPU: keep it off the event loop."""
    members: dict[str, list[int]] = {}
    for position, session in enumerate(sessions):
        for term in terms_of(session):
            members.setdefault(term, []).append(position)
    return sorted((term, pack(positions)) for term, positions in members.items())


async def large_organizations(tx: Tx) -> list[OrgId]:
    """Return the organizations that have segments or enough sessions for one."""
    rows = await tx.all(
        "SELECT org_id FROM session_totals GROUP BY org_id HAVING SUM(sessions) >= ?"
        " UNION SELECT org_id FROM search_segments",
        SEGMENT,
    )
    return [row[0] for row in rows]


async def last_segment(tx: Tx, org_id: OrgId) -> int:
    """Return the number of the organization's newest segment; -1 if it has none."""
    slots = await tx.one("SELECT MAX(segment) FROM search_segments WHERE org_id = ?", org_id)
    return -1 if slots is None or slots[0] is None else int(slots[0])


_UNSORTED = "org_id = ? AND search_slot IS NULL AND deleted_at IS NULL"


async def read_unsorted(tx: Tx, org_id: OrgId) -> list[Unsorted]:
    """Return the oldest `SEGMENT` sessions that are not in the index; no sessions if there are fewer."""
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
    """Write a segment, and set the slots of those of its sessions that have not changed since the read.

    Returns:
        Whether the segment was written. If not, another process has used the number, most likely for the
        same sessions.
    """
    newest = max(session.created_at for session in sessions)
    created = await tx.run(
        "INSERT INTO search_segments (org_id, segment, newest) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        org_id,
        segment,
        newest,
    )
    if not created:
        return False
    await tx.run_many(
        "INSERT INTO search_terms (org_id, segment, term, members) VALUES (?, ?, ?, ?)",
        [(org_id, segment, term, members) for term, members in terms],
    )
    await tx.run_many(
        # No condition here may match an index, so that PostgreSQL finds each row by its id.
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
    """Return the segments that more than half of their sessions have left."""
    counted = await tx.all(
        f"SELECT search_slot / {SEGMENT}, COUNT(*) FROM sessions WHERE org_id = ? AND search_slot IS NOT NULL"
        f" AND deleted_at IS NULL GROUP BY search_slot / {SEGMENT}",
        org_id,
    )
    live: dict[int, int] = {row[0]: row[1] for row in counted}
    rows = await tx.all("SELECT segment FROM search_segments WHERE org_id = ?", org_id)
    return [segment for (segment,) in rows if live.get(segment, 0) * 2 < SEGMENT]


async def drop_segment(tx: Tx, org_id: OrgId, segment: int) -> None:
    """Remove a segment; the sessions still in it become unsorted, to be indexed again."""
    await tx.run(
        "UPDATE sessions SET search_slot = NULL WHERE org_id = ? AND search_slot >= ? AND search_slot < ?"
        " AND deleted_at IS NULL",
        org_id,
        segment * SEGMENT,
        (segment + 1) * SEGMENT,
    )
    for table in ("search_terms", "search_segments"):
        await tx.run(f"DELETE FROM {table} WHERE org_id = ? AND segment = ?", org_id, segment)


async def next_segment(tx: Tx, org_id: OrgId, after: int) -> int | None:
    """Return the organization's segment after this number; None if it was the last one."""
    found = await tx.one(
        "SELECT MIN(segment) FROM search_segments WHERE org_id = ? AND segment > ?", org_id, after
    )
    return None if found is None else found[0]


async def forget_absent(
    tx: Tx, org_id: OrgId, segment: int, after: str, limit: int = 500
) -> tuple[int, str | None]:
    """Take sessions that have left a segment out of a batch of its rows, so that their words are gone.

    Args:
        after: the last term that was seen to; empty for the first batch.
        limit: the most rows.

    Returns:
        How many rows have changed, and the last term of the batch; None if it was the segment's last batch.
    """
    slots = await tx.all(
        "SELECT search_slot FROM sessions WHERE org_id = ? AND search_slot >= ? AND search_slot < ?"
        " AND deleted_at IS NULL",
        org_id,
        segment * SEGMENT,
        (segment + 1) * SEGMENT,
    )
    present = 0
    for (slot,) in slots:
        present |= 1 << (slot - segment * SEGMENT)
    rows = await tx.all(
        "SELECT term, members FROM search_terms WHERE org_id = ? AND segment = ? AND term > ?"
        " ORDER BY term LIMIT ?",
        org_id,
        segment,
        after,
        limit,
    )
    changed = 0
    for term, members in rows:
        before = unpack(members)
        left = before & present
        if left == before:
            continue
        changed += 1
        key = (org_id, segment, term)
        if not left:
            await tx.run("DELETE FROM search_terms WHERE org_id = ? AND segment = ? AND term = ?", *key)
        else:
            packed = pack(sorted(_positions(left)))
            await tx.run(
                "UPDATE search_terms SET members = ? WHERE org_id = ? AND segment = ? AND term = ?",
                packed,
                *key,
            )
    return changed, rows[-1][0] if len(rows) == limit else None


async def segments_by_age(
    tx: Tx, org_id: OrgId, text: str | None
) -> tuple[list[tuple[int, Micros]], str | None]:
    """Return the organization's segments, newest first, and the text in the database's case folding.

    Each segment comes with the time at which its newest session was created. Without segments the text is
    None.
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
    """Return the slots, by segment, of the sessions that have all of these terms.

    Some may be outdated: the session has left the segment since.
    """
    in_segments, first = among(tx.dialect, "segment", "BIGINT", segments)
    in_terms, second = among(tx.dialect, "term", "TEXT", terms)
    rows = await tx.all(
        f"SELECT segment, members FROM search_terms WHERE org_id = ? AND {in_segments} AND {in_terms}",
        org_id,
        first,
        second,
    )
    sets_by_segment: dict[int, list[bytes]] = {}
    for segment, members in rows:
        sets_by_segment.setdefault(segment, []).append(members)
    slots = {}
    for segment, sets in sets_by_segment.items():
        if len(sets) == len(terms):
            bits = -1
            for members in sorted(sets, key=len):
                bits &= unpack(members)
                if not bits:
                    break
            slots[segment] = [segment * SEGMENT + position for position in _positions(bits)]
    return slots
