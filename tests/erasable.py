"""What an erasure does with each table of the database. A test fails for a table that is missing here.

For a new table: if it has anything of a session or a user, let the erasure remove it, and put it where it
belongs. Otherwise say why it stays.
"""

from __future__ import annotations

from perdure.store.session_remains import AT_ONCE, ERASED
from perdure.store.user_remains import PSEUDONYMIZED

OF_SESSIONS = {place.table for place in (*AT_ONCE, *ERASED)} | {
    "sessions", "events", "files", "workspaces", "images", "content_holds", "tool_lists", "tasks",
    "task_messages", "webhooks", "budgets", "budget_shards", "budget_entries", "confidential_sessions",
    "audit_entries",
}  # fmt: skip
"""Rows that go with a session."""

OF_USERS = {
    "users", "tokens", "memberships", "invitations", "connections", "sign_ins", "inbox_links", "idempotency",
    "pins", "confidential_sessions", "budgets", "budget_shards", "budget_entries", "memories",
    "memory_versions", "files",
}  # fmt: skip
"""Rows that go with a user."""

PSEUDONYMOUS = {table for table, _ in PSEUDONYMIZED}
"""Rows that stay, with another id in place of the user's."""

SHARED = {
    "gone_workspaces": "names a workspace until its files are removed",
    "blobs": "a content goes once nothing refers to it",
    "blob_parts": "as blobs",
    "search_terms": "forgets sessions that are gone",
    "search_segments": "has numbers only",
}
"""Rows that may be of many, and lose what nobody needs any more."""

STAYS = {
    "audit_gate": "is empty after every transaction",
    "agents": "the organization's",
    "budget_holds": "figures of a call under way, which are booked within seconds",
    "callback_keys": "the server's own",
    "erasures": "the receipts: ids only",
    "erasure_counts": "the receipts",
    "harnesses": "the organization's",
    "limits": "the organization's",
    "mcp_pins": "the organization's",
    "mcp_servers": "the organization's",
    "migrations": "the server's own",
    "minute_counts": "figures that are gone after three minutes",
    "models": "the organization's",
    "oauth_clients": "the organization's",
    "org_keys": "the organization's",
    "organizations": "the organization's",
    "probes": "the server's own",
    "processes": "names the sessions that run, and is written anew within seconds",
    "providers": "the organization's",
    "retention": "the organization's",
    "retention_days": "figures",
    "sealing": "the server's own",
    "session_totals": "figures",
    "skill_files": "the organization's",
    "skill_versions": "the organization's",
    "skills": "the organization's",
    "turn_minutes": "figures",
}
"""Rows that an erasure leaves alone, and why."""

QUEUES = {"perdure_queue", "perdure_queue_log", "perdure_queue_schedules", "perdure_queue_statistics"}
"""Jobs name the session to go on with, and are gone within seconds."""

NAMES_A_SESSION = {
    "session_id", "root_session_id", "parent_session_id", "child_session_id", "forked_from_id", "owner",
}  # fmt: skip
NAMES_A_USER = {
    "user_id", "owner_id", "created_by", "made_by", "makers", "redacted_by", "subject", "subject_id",
    "identity", "requested_by",
}  # fmt: skip
"""Columns by which a row can be of a session or of a user."""
