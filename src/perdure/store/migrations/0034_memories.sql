-- A store of text files that sessions share. scope: 'named', 'agent' (of agent_id) or 'user' (of user_id: no
-- other user's request reaches it). The files are in the table files, under the memory's id; size_bytes and
-- file_count are their totals, history_bytes and version_count those of the versions. The versions' sequences
-- come from version_count. external: where text from outside in the sessions that have written it came from,
-- as JSON; NULL as long as none of them had any.
CREATE TABLE memories (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT,
    agent_id TEXT,
    user_id TEXT,
    created_by TEXT NOT NULL,
    status TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    file_count BIGINT NOT NULL,
    history_bytes BIGINT NOT NULL,
    version_count BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    archived_at BIGINT,
    external TEXT
);

CREATE INDEX memories_by_org ON memories (org_id, created_at);

CREATE UNIQUE INDEX memories_by_name ON memories (org_id, name) WHERE status = 'active' AND scope = 'named';

CREATE UNIQUE INDEX memories_by_agent ON memories (org_id, agent_id, name)
    WHERE status = 'active' AND scope = 'agent';

CREATE UNIQUE INDEX memories_by_user ON memories (org_id, user_id, name)
    WHERE status = 'active' AND scope = 'user';

-- What each write of a file left. hash is empty for a deletion; of a redacted version the content is gone.
CREATE TABLE memory_versions (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL,
    memory_id TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    path TEXT{{bytewise}} NOT NULL,
    version BIGINT NOT NULL,
    operation TEXT NOT NULL,
    hash TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    user_id TEXT,
    session_id TEXT,
    created_at BIGINT NOT NULL,
    redacted_at BIGINT,
    redacted_by TEXT
);

CREATE UNIQUE INDEX memory_versions_by_sequence ON memory_versions (memory_id, sequence);

CREATE INDEX memory_versions_by_path ON memory_versions (memory_id, path, sequence);

CREATE INDEX memory_versions_by_hash ON memory_versions (org_id, hash) WHERE redacted_at IS NULL;

-- Sessions, by the session at the top of their tree, that have seen a user's memory: nobody else reads them.
CREATE TABLE confidential_sessions (
    session_id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE INDEX confidential_sessions_by_org ON confidential_sessions (org_id, user_id);
