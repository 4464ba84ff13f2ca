"""Reads that compare rows with one another, for `perdure verify`. Each reads a bounded part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from hashlib import sha256

import msgspec

from perdure.domain.ids import OrgId, SessionId, TaskId
from perdure.domain.spending import Held
from perdure.domain.tasks import SessionTask
from perdure.domain.times import Micros
from perdure.domain.verification import Checked, Difference
from perdure.domain.workspaces import session_of
from perdure.store.blobs import PARTS
from perdure.store.budget_entries import ALL_ENTRIES
from perdure.store.database import Row, Tx, Value
from perdure.store.model_calls import ModelCallRow
from perdure.store.rows import among, columns, from_json
from perdure.store.search import SEGMENT, Unsorted, sort_terms, unpack
from perdure.store.sessions import SessionRow
from perdure.store.uploads import KEY

PAGE = 200
"""Rows of a part."""
MOST = 1000
"""Differences of one kind that are listed."""


async def applied_migrations(tx: Tx) -> dict[int, Micros]:
    """Return when each migration was applied: older rows do not have what it added."""
    return {row[0]: row[1] for row in await tx.all("SELECT number, applied_at FROM migrations")}


async def sessions_after(tx: Tx, after: str, limit: int = PAGE) -> list[SessionRow]:
    """Return the next sessions by id that are not deleted."""
    rows = await tx.all(
        f"SELECT {columns(SessionRow)} FROM sessions WHERE id > ? AND deleted_at IS NULL ORDER BY id LIMIT ?",
        after,
        limit,
    )
    return [SessionRow(*row) for row in rows]


async def logs_without_session(tx: Tx, after: str, until: str | None) -> tuple[list[SessionId], str | None]:
    """Return logs between two ids whose session does not exist.

    Returns:
        Also the last one of a part; None at the end.
    """
    found: list[SessionId] = []
    last = after
    for _ in range(10 * PAGE):
        row = await tx.one(
            "SELECT session_id FROM events WHERE session_id > ? ORDER BY session_id LIMIT 1", last
        )
        if row is None or (until is not None and row[0] > until):
            return found, None
        last = row[0]
        if await tx.one("SELECT 1 FROM sessions WHERE id = ?", last) is None:
            found.append(SessionId(last))
    return found, last


async def tasks_of(tx: Tx, session_id: SessionId) -> list[Row]:
    """Return (id, state, child, finished_at, task) of a session's tasks."""
    return await tx.all(
        "SELECT id, state, child_session_id, finished_at, task FROM tasks WHERE session_id = ?", session_id
    )


def task_in(row: Row) -> SessionTask:
    """Return the task of a row of `tasks_of`. Raises Damaged."""
    return from_json(_TASK, row[4], f"the task {row[0]}")


async def count_task_messages(tx: Tx, task_ids: Sequence[TaskId]) -> dict[TaskId, int]:
    """Count the messages of those of these tasks that have a row."""
    match, ids = among(tx.dialect, "t.id", "TEXT", list(task_ids))
    rows = await tx.all(
        "SELECT t.id, (SELECT COUNT(*) FROM task_messages m WHERE m.task_id = t.id) FROM tasks t"
        f" WHERE {match}",
        ids,
    )
    return {row[0]: row[1] for row in rows}


async def feedback_of(tx: Tx, session_id: SessionId) -> list[Row]:
    """Return (message, user, rating, comment) of a session's feedback."""
    return await tx.all(
        "SELECT message_id, user_id, rating, comment FROM feedback WHERE session_id = ?", session_id
    )


async def present_participants(tx: Tx, session_id: SessionId) -> set[str]:
    """Return the ids of a session's participants that have not left."""
    rows = await tx.all("SELECT id FROM participants WHERE session_id = ? AND left_at IS NULL", session_id)
    return {row[0] for row in rows}


async def misplaced_client_messages(tx: Tx, row: SessionRow) -> list[Row]:
    """Return (id, sequence) of the messages with clients' ids whose place in the log holds no message."""
    return await tx.all(
        "SELECT c.client_message_id, c.sequence FROM client_messages c LEFT JOIN events e"
        " ON e.session_id = c.session_id AND e.sequence = c.sequence"
        " WHERE c.session_id = ? AND c.sequence BETWEEN 1 AND ?"
        " AND COALESCE(e.type, '') <> 'input.message' LIMIT ?",
        row.id,
        row.head,
        MOST,
    )


_TASK = msgspec.json.Decoder(SessionTask)
_HELD = msgspec.json.Decoder(tuple[Held, ...])
_WAITING = {
    "callback": "SELECT tool_call_id FROM callbacks WHERE session_id = ? AND answered_at IS NULL",
    "child": "SELECT tool_call_id FROM task_waits WHERE session_id = ?",
    "sign_in": "SELECT tool_call_id FROM input_requests WHERE session_id = ?",
    "input": "SELECT tool_call_id FROM input_requests WHERE session_id = ?",
    "budget": "SELECT '' FROM budget_waits WHERE session_id = ?",
}
"""By the kind of a parked call: the rows without which it would wait for its deadline."""
WAITING = tuple(_WAITING)


async def waiting_calls(tx: Tx, session_id: SessionId, kind: str) -> set[str]:
    """Return the ids of the calls that have a row to be answered by."""
    return {row[0] for row in await tx.all(_WAITING[kind], session_id)}


async def ledger_rows(tx: Tx, ids: Sequence[str]) -> dict[str, ModelCallRow]:
    """Return the rows of the ledger with these ids."""
    match, choices = among(tx.dialect, "id", "TEXT", ids)
    rows = await tx.all(f"SELECT {columns(ModelCallRow)} FROM model_calls WHERE {match}", choices)
    return {row[0]: ModelCallRow(*row) for row in rows}


async def count_ledger(tx: Tx, row: SessionRow) -> int:
    """Count the calls of a session in the ledger whose end is in its log."""
    found = await tx.one(
        "SELECT COUNT(*) FROM model_calls WHERE org_id = ? AND root_session_id = ? AND session_id = ?"
        " AND kind <> 'lost'",
        row.org_id,
        row.root_session_id or row.id,
        row.id,
    )
    return 0 if found is None else int(found[0])


async def check_counts(tx: Tx) -> list[Difference]:
    """Compare the numbers of sessions that lists show."""
    counted = {
        row[0]: row[1]
        for row in await tx.all(
            "SELECT org_id, COUNT(*) FROM sessions WHERE deleted_at IS NULL AND archived_at IS NULL"
            " GROUP BY org_id"
        )
    }
    totals = {
        row[0]: row[1]
        for row in await tx.all(
            "SELECT org_id, CAST(SUM(sessions) AS BIGINT) FROM session_totals GROUP BY org_id"
        )
    }
    return [
        _differs("counts", "the number of sessions", OrgId(org), counted.get(org, 0), totals.get(org, 0))
        for org in sorted(counted.keys() | totals.keys())
        if counted.get(org, 0) != totals.get(org, 0)
    ]


async def check_workspaces(tx: Tx, after: str) -> tuple[list[Difference], str | None]:
    """Compare the totals of the next workspaces with their files; return the last id, None at the end."""
    rows = await tx.all(
        "SELECT w.id, w.org_id, w.session_id, w.size_bytes, w.file_count,"
        " (SELECT CAST(COALESCE(SUM(size_bytes), 0) AS BIGINT) FROM files WHERE workspace_id = w.id),"
        " (SELECT COUNT(*) FROM files WHERE workspace_id = w.id)"
        " FROM workspaces w WHERE w.id > ? ORDER BY w.id LIMIT ?",
        after,
        PAGE,
    )
    found = [
        _differs("workspaces", f"the {name} of the workspace {row[0]}", row[1], expected, kept, row[2])
        for row in rows
        for name, kept, expected in (("bytes", row[3], row[5]), ("files", row[4], row[6]))
        if kept != expected
    ]
    return found, rows[-1][0] if len(rows) == PAGE else None


async def check_memories(tx: Tx, after: str) -> tuple[list[Difference], str | None]:
    """Compare the totals of the next memories with their files and versions."""
    rows = await tx.all(
        "SELECT m.id, m.org_id, m.size_bytes, m.file_count, m.history_bytes, m.version_count,"
        " (SELECT CAST(COALESCE(SUM(size_bytes), 0) AS BIGINT) FROM files WHERE workspace_id = m.id),"
        " (SELECT COUNT(*) FROM files WHERE workspace_id = m.id),"
        " (SELECT CAST(COALESCE(SUM(size_bytes), 0) AS BIGINT) FROM memory_versions"
        "  WHERE memory_id = m.id AND redacted_at IS NULL),"
        " (SELECT COALESCE(MAX(sequence), 0) FROM memory_versions WHERE memory_id = m.id)"
        " FROM memories m WHERE m.id > ? ORDER BY m.id LIMIT ?",
        after,
        PAGE,
    )
    names = ("bytes", "files", "bytes of versions", "versions")
    found = [
        _differs("memories", f"the {name} of the memory {row[0]}", row[1], row[6 + at], row[2 + at])
        for row in rows
        for at, name in enumerate(names)
        if row[2 + at] != row[6 + at]
    ]
    return found, rows[-1][0] if len(rows) == PAGE else None


_REFERENCES = (
    ("files", "workspace_id", "path", "f.is_directory = 0"),
    ("tool_lists", "session_id", "hash", "1 = 1"),
    ("content_holds", "owner", "hash", "1 = 1"),
    ("skill_files", "skill_id", "path", "1 = 1"),
    ("memory_versions", "memory_id", "path", "f.hash <> '' AND f.redacted_at IS NULL"),
    ("images", "id", "hash", "1 = 1"),
)
"""What refers to contents: table, owner, name and condition."""


async def check_references(tx: Tx) -> list[Difference]:
    """Find references to contents that are missing, or have another size."""
    found = []
    for table, owner, name, where in _REFERENCES:
        rows = await tx.all(
            f"SELECT f.org_id, f.{owner}, f.{name}, f.size_bytes, b.size_bytes FROM {table} f"
            f" LEFT JOIN blobs b ON b.org_id = f.org_id AND b.hash = f.hash WHERE {where}"
            f" AND (b.hash IS NULL OR b.size_bytes <> f.size_bytes) ORDER BY 1, 2, 3 LIMIT {MOST}"
        )
        for org, of, what, size, stored in rows:
            detail = f"the content of {what} of {of} ({table})"
            found.append(_differs("files", detail, org, f"{size} bytes", _bytes(stored), session_of(of)))
    return found


def _bytes(size: int | None) -> str:
    return "no content" if size is None else f"{size} bytes"


async def check_contents(
    tx: Tx, after: tuple[str, str], *, whole: bool
) -> tuple[list[Difference], int, tuple[str, str] | None]:
    """Compare the sizes of the next contents with their parts.

    Args:
        whole: also read them, and compare their hashes.

    Returns:
        The differences, how many contents were checked, and the last one; None at the end.
    """
    rows = await tx.all(
        "SELECT b.org_id, b.hash, b.size_bytes, (SELECT CAST(COALESCE(SUM(LENGTH(p.content)), 0) AS BIGINT)"
        " FROM blob_parts p WHERE p.org_id = b.org_id AND p.hash = COALESCE(b.parts_key, b.hash))"
        " FROM blobs b WHERE (b.org_id, b.hash) > (?, ?) ORDER BY b.org_id, b.hash LIMIT ?",
        *after,
        PAGE,
    )
    found = []
    for org, hash_, size, stored in rows:
        if hash_.startswith(KEY):
            continue  # it is still arriving
        if size != stored:
            found.append(_differs("contents", f"the bytes of the content {hash_}", org, size, stored))
        elif whole and await _hash_of(tx, org, hash_) != hash_:
            found.append(Difference("contents", f"the content {hash_} was changed", org))
    return found, len(rows), (rows[-1][0], rows[-1][1]) if len(rows) == PAGE else None


async def _hash_of(tx: Tx, org_id: OrgId, hash_: str) -> str:
    digest, part = sha256(), 0
    sql = f"SELECT p.content FROM {PARTS} WHERE b.org_id = ? AND b.hash = ? AND p.part = ?"
    while (row := await tx.one(sql, org_id, hash_, part)) is not None:
        digest.update(row[0])
        part += 1
    return digest.hexdigest()


async def segments(tx: Tx) -> list[tuple[OrgId, int]]:
    """Return the segments of the search index."""
    return [(row[0], row[1]) for row in await tx.all("SELECT org_id, segment FROM search_segments")]


async def check_segment(tx: Tx, org_id: OrgId, segment: int) -> list[Difference]:
    """Find sessions that a segment of the search index would not find."""
    first = segment * SEGMENT
    rows = await tx.all(
        "SELECT id, created_at, title_folded, tags, agent_id, search_slot FROM sessions WHERE org_id = ?"
        " AND search_slot >= ? AND search_slot < ? AND deleted_at IS NULL",
        org_id,
        first,
        first + SEGMENT,
    )
    indexed = {
        term: unpack(bytes(members))
        for term, members in await tx.all(
            "SELECT term, members FROM search_terms WHERE org_id = ? AND segment = ?", org_id, segment
        )
    }
    found = []
    for *fields, slot in rows:
        session = Unsorted(*fields)
        bit = 1 << (slot - first)
        missing = [term for term, _ in sort_terms([session]) if not indexed.get(term, 0) & bit]
        if missing:
            detail = f"the search index lacks {len(missing)} terms of the session"
            found.append(Difference("search", detail, org_id, session.id, found=repr(missing[0])))
    return found


async def check_slots(tx: Tx) -> list[Difference]:
    """Find sessions in segments that do not exist."""
    rows = await tx.all(
        f"SELECT s.org_id, s.id FROM sessions s WHERE s.search_slot IS NOT NULL AND s.deleted_at IS NULL"
        f" AND NOT EXISTS (SELECT 1 FROM search_segments g WHERE g.org_id = s.org_id"
        f" AND g.segment = s.search_slot / {SEGMENT}) ORDER BY s.id LIMIT {MOST}"
    )
    return [Difference("search", "the session's segment of the index is missing", *row) for row in rows]


async def check_budgets(tx: Tx) -> list[Difference]:
    """Compare budgets with their shards, their entries, and what model calls under way hold."""
    rows = await tx.all(
        "SELECT b.id, b.org_id, b.period, b.spent + COALESCE(s.spent, 0) - b.credit, b.leased,"
        " COALESCE(s.leased, 0), COALESCE(s.reserved, 0), COALESCE(e.net, 0) FROM budgets b"
        " LEFT JOIN (SELECT budget_id, CAST(SUM(spent) AS BIGINT) AS spent,"
        "  CAST(SUM(leased) AS BIGINT) AS leased, CAST(SUM(reserved) AS BIGINT) AS reserved"
        "  FROM budget_shards GROUP BY budget_id) s ON s.budget_id = b.id"
        " LEFT JOIN (SELECT budget_id, CAST(SUM(amount) AS BIGINT) AS net"
        f"  FROM ({ALL_ENTRIES[tx.dialect]}) AS entries GROUP BY budget_id) e ON e.budget_id = b.id"
        " ORDER BY b.id"
    )
    held: Counter[str] = Counter()
    for (text,) in await tx.all("SELECT held FROM budget_holds WHERE settled_at IS NULL"):
        for each in from_json(_HELD, text, "what a model call holds of budgets"):
            held[each.budget_id] += each.amount
    found = []
    for id_, org, period, spent, leased, in_shards, reserved, net in rows:
        compared = [
            ("has leased", leased, in_shards),
            ("has reserved for calls under way", reserved, held[id_]),
            *([] if period else [("has spent, without top-ups,", spent, net)]),  # its periods begin at 0
        ]
        found += [
            _differs("budgets", f"what the budget {id_} {what}", org, expected, kept)
            for what, kept, expected in compared
            if kept != expected
        ]
    return found


_OF_SESSIONS = (
    "key_values", "secrets", "sql_databases", "schedules", "shell_states", "client_messages", "feedback",
    "task_waits", "budget_waits", "participants", "standing_approvals", "pins", "input_requests", "callbacks",
    "tool_lists",
)  # fmt: skip
"""Tables whose rows end with their session."""


async def check_orphans(tx: Tx) -> list[Difference]:
    """Find rows of sessions that do not exist."""
    found = []
    for table in _OF_SESSIONS:
        rows = await tx.all(
            f"SELECT DISTINCT r.org_id, r.session_id FROM {table} r WHERE NOT EXISTS"
            f" (SELECT 1 FROM sessions s WHERE s.id = r.session_id) ORDER BY 2 LIMIT {MOST}"
        )
        found += [
            Difference("rows", f"{table} has rows of a session that does not exist", *row) for row in rows
        ]
    return found


def _differs(
    what: Checked, detail: str, org_id: OrgId, expected: Value, found: Value, session_id: str | None = None
) -> Difference:
    of = None if session_id is None else SessionId(session_id)
    return Difference(what, detail, org_id, of, str(expected), str(found))
