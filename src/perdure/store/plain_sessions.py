"""Which sessions are plain: nothing has to be read of them before an append, but their own rows.

A plain session has no secrets that events would have to be searched for, and its agent no variables that a
message would have to give values for.
"""

from __future__ import annotations

from perdure.store.agents import HAS_VARIABLES

PLAIN = (
    "NOT EXISTS (SELECT 1 FROM secrets WHERE secrets.session_id = sessions.id)"
    " AND NOT EXISTS (SELECT 1 FROM agents WHERE agents.id = sessions.agent_id"
    f" AND sessions.agent_version_id IS NULL AND agents.{HAS_VARIABLES})"
    " AND NOT EXISTS (SELECT 1 FROM agent_versions WHERE agent_versions.id = sessions.agent_version_id"
    f" AND agent_versions.authored_{HAS_VARIABLES})"
)
"""The condition in a statement on `sessions`."""
