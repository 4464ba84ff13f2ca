"""The tables of an export: which rows belong to an organization or a tree of sessions, and in which order."""

from __future__ import annotations

from msgspec import Struct

from perdure.store.database import Tx


class Table(Struct, frozen=True):
    """Rows of a table that are exported.

    Attributes:
        name: the table.
        key: its columns that order the rows, and tell one from another.
        where: which rows, with one `?` for the id of the organization or the session.
        large: columns that may be large.
        secret: a column with a secret, and the place that it is bound to, as a format of the row's columns.
            None: it has no secret. The row is left out without secrets if `needs_secret`.
        unset: columns that get a value of their own: an SQL expression for each.
        unique: a column that is unique in its organization: an imported row gets another name.
    """

    name: str
    key: tuple[str, ...]
    where: str
    large: tuple[str, ...] = ()
    secret: tuple[str, str] | None = None
    needs_secret: bool = False
    unset: tuple[tuple[str, str], ...] = ()
    unique: str = ""


def _of_session(name: str, *key: str, large: tuple[str, ...] = ()) -> Table:
    return Table(name, key, "session_id = ?", large)


_OWN = "workspace_id = 'workspace_' || SUBSTR(CAST(? AS TEXT), 9)"
"""Of the session's own workspace, whose id has the same digits."""
_BUDGETS = "budget_id IN (SELECT id FROM budgets WHERE subject_id = ?)"
_IN_SHARDS = "SELECT CAST(COALESCE(SUM(s.spent), 0) AS BIGINT) FROM budget_shards s"
_BUDGET_UNSET = (("spent", f"spent + ({_IN_SHARDS} WHERE s.budget_id = budgets.id)"), ("leased", "0"))
_IMAGES = "SELECT id FROM images WHERE session_id = ?"

CONTENTS_OF_SESSION = (
    f"hash IN (SELECT hash FROM files WHERE is_directory = 0 AND {_OWN}"
    " UNION SELECT hash FROM tool_lists WHERE session_id = ?"
    f" UNION SELECT hash FROM content_holds WHERE owner = ? OR owner IN ({_IMAGES}))"
)
OF_SESSION: tuple[Table, ...] = (
    _of_session("events", "session_id", "sequence", large=("data", "metadata")),
    Table("workspaces", ("id",), "session_id = ?"),
    Table("files", ("workspace_id", "path"), _OWN),
    _of_session("key_values", "session_id", "key", large=("value",)),
    Table(
        "secrets",
        ("session_id", "name"),
        "session_id = ?",
        secret=("sealed", "secret/{session_id}/{name}"),
        needs_secret=True,
    ),
    _of_session("sql_databases", "session_id", "name", large=("image",)),
    _of_session("schedules", "id"),
    _of_session("client_messages", "session_id", "client_message_id"),
    _of_session("feedback", "session_id", "message_id", "user_id"),
    _of_session("participants", "session_id", "subject"),
    _of_session("standing_approvals", "session_id", "tool_name"),
    _of_session("shell_states", "session_id", large=("snapshot",)),
    _of_session("tool_lists", "session_id", "hash"),
    Table("content_holds", ("owner", "hash"), "owner = ?"),
    _of_session("images", "id"),
    Table("content_holds", ("owner", "hash"), f"owner IN ({_IMAGES})"),
    _of_session("tasks", "id", large=("task",)),
    Table(
        "task_messages",
        ("task_id", "place", "id"),
        "task_id IN (SELECT id FROM tasks WHERE session_id = ?)",
        ("message",),
    ),
    _of_session("task_waits", "session_id", "exec_id", "tool_call_id"),
    _of_session("callbacks", "id"),
    Table(
        "input_requests",
        ("id",),
        "session_id = ?",
        secret=("sealed", "input/{id}"),
        needs_secret=True,
    ),
    Table("budgets", ("id",), "subject_id = ?", unset=_BUDGET_UNSET),
    Table("budget_entries", ("budget_id", "created_at", "id"), _BUDGETS),
    _of_session("budget_waits", "session_id"),
    _of_session("confidential_sessions", "session_id"),
    _of_session("pins", "session_id", "user_id"),
)
"""Of each session of a tree. Its contents come before them, and its row after those of the whole tree."""
LEDGER = Table("model_calls", ("id",), "root_session_id = ?")
"""Of a tree."""
SESSIONS = Table(
    "sessions",
    ("id",),
    "(id = ? OR root_session_id = ?) AND deleted_at IS NULL",
    ("config", "queued"),
    unset=(("search_slot", "NULL"), ("turn_slot", "0"), ("erasure_id", "NULL")),
)
"""The last rows of a tree."""
COPIED = frozenset(
    {
        "events", "workspaces", "files", "key_values", "secrets", "sql_databases", "schedules", "feedback",
        "participants", "standing_approvals", "shell_states", "tool_lists", "content_holds", "sessions",
        "blobs", "blob_parts",
    }
)  # fmt: skip
"""What a session that is imported as a copy gets, as a fork does: no tasks, no open calls, no costs."""

_ALIVE = "EXISTS (SELECT 1 FROM sessions s WHERE s.id = {id} AND s.deleted_at IS NULL)"
_STORES = (
    "(workspace_id IN (SELECT id FROM memories WHERE org_id = ?) OR workspace_id IN"
    " (SELECT id FROM workspaces WHERE org_id = ? AND session_id IS NULL))"
)
CONTENTS_OF_ORG = (
    "hash IN (SELECT hash FROM files f WHERE f.is_directory = 0 AND f.workspace_id IN"
    " (SELECT id FROM memories WHERE org_id = ?"
    " UNION SELECT id FROM workspaces WHERE org_id = ? AND session_id IS NULL)"
    " UNION SELECT hash FROM skill_files WHERE org_id = ?"
    " UNION SELECT hash FROM memory_versions WHERE org_id = ? AND redacted_at IS NULL"
    " UNION SELECT hash FROM content_holds WHERE owner IN"
    " (SELECT id FROM images WHERE org_id = ? AND session_id IS NULL))"
)
PROVIDER = Table(
    "providers",
    ("id",),
    "org_id = ?",
    secret=("secrets", "provider/{id}"),
)
OF_ORG: tuple[Table, ...] = (
    Table("organizations", ("id",), "id = ?"),
    Table("users", ("id",), "id IN (SELECT user_id FROM memberships WHERE org_id = ?)"),
    Table("memberships", ("org_id", "user_id"), "org_id = ?"),
    PROVIDER,
    Table("models", ("id",), "org_id = ?"),
    Table("harnesses", ("id",), "org_id = ?", ("config",), unique="name"),
    Table("agents", ("id",), "org_id = ?", ("config", "system_prompt"), unique="name"),
    Table("agent_versions", ("id",), "org_id = ?", ("authored_config", "resolved_config")),
    Table("revisions", ("id",), "org_id = ?", ("content",)),
    Table("audit_entries", ("id",), "org_id = ?", ("before", "after")),
    Table("skills", ("id",), "org_id = ?", unique="name"),
    Table("skill_versions", ("skill_id", "version"), "org_id = ?"),
    Table("skill_files", ("skill_id", "version", "path"), "org_id = ?"),
    Table("mcp_servers", ("id",), "org_id = ?", secret=("secrets", "mcp/{id}"), unique="slug"),
    Table("mcp_pins", ("org_id", "server", "tool"), "org_id = ?"),
    Table("memories", ("id",), "org_id = ?", unique="name"),
    Table("memory_versions", ("id",), "org_id = ?"),
    Table("workspaces", ("id",), "session_id IS NULL AND org_id = ?", unique="name"),
    Table("files", ("workspace_id", "path"), f"org_id = ? AND {_STORES.replace('?', 'files.org_id')}"),
    Table("images", ("id",), "session_id IS NULL AND org_id = ?"),
    Table(
        "content_holds",
        ("owner", "hash"),
        "owner IN (SELECT id FROM images WHERE org_id = ? AND session_id IS NULL)",
    ),
    Table("limits", ("org_id", "subject"), "org_id = ?"),
    Table("retention", ("org_id", "kind"), "org_id = ?"),
    Table("budgets", ("id",), "org_id = ? AND subject_type <> 'session'", unset=_BUDGET_UNSET),
    Table(
        "budget_entries",
        ("budget_id", "created_at", "id"),
        "budget_id IN (SELECT id FROM budgets WHERE org_id = ? AND subject_type <> 'session')",
    ),
    Table("model_calls", ("id",), f"org_id = ? AND NOT {_ALIVE.format(id='model_calls.root_session_id')}"),
)
"""Of an organization, before its trees of sessions."""

_GENERATED = {
    "sqlite": "SELECT name FROM pragma_table_xinfo(?) WHERE hidden = 0",
    "postgres": (
        "SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass(?) AND attnum > 0"
        " AND NOT attisdropped AND attgenerated = '' ORDER BY attnum"
    ),
}


async def columns_of(tx: Tx, table: str) -> tuple[str, ...]:
    """Return the names of a table's columns, without those that the database computes."""
    return tuple(row[0] for row in await tx.all(_GENERATED[tx.dialect], table))
