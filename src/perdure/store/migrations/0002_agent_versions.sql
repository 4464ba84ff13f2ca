-- Versions of agents: every state that an agent's configuration was in, never changed. `authored_config` is what was
-- written; `resolved_config` what it came to over its harness at that moment.

CREATE TABLE agent_versions (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    version_number INTEGER NOT NULL,
    parent_version_id TEXT,
    source_version_id TEXT,
    change_kind TEXT NOT NULL,
    semver_major INTEGER NOT NULL,
    semver_minor INTEGER NOT NULL,
    semver_patch INTEGER NOT NULL,
    summary TEXT,
    config_hash TEXT NOT NULL,
    authored_config TEXT NOT NULL,
    resolved_config TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE UNIQUE INDEX agent_versions_by_number ON agent_versions (agent_id, version_number);

CREATE INDEX agent_versions_by_hash ON agent_versions (agent_id, config_hash, version_number);

ALTER TABLE agents ADD COLUMN default_version_id TEXT;

ALTER TABLE agents ADD COLUMN forked_from_agent_id TEXT;

ALTER TABLE agents ADD COLUMN forked_from_version_id TEXT;

ALTER TABLE agents ADD COLUMN root_agent_id TEXT;

-- The version that a session runs, where its agent had a default one; else it follows the agent as it is.
ALTER TABLE sessions ADD COLUMN agent_version_id TEXT;

CREATE INDEX harnesses_by_parent ON harnesses (parent_harness_id) WHERE parent_harness_id IS NOT NULL;

-- For counting: the sessions of a harness, and the turns of sessions.
CREATE INDEX sessions_by_harness ON sessions (org_id, harness_id, created_at) WHERE deleted_at IS NULL;

CREATE INDEX events_turns ON events (session_id, ts) WHERE type = 'turn.started';
