-- The core: organizations, users, keys; providers and models; harnesses and agents; sessions and their logs; files.
-- Every row of a session carries its organization and its session; nothing joins across organizations.

CREATE TABLE organizations (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    default_model_id TEXT,
    default_harness_id TEXT,
    onboarding_completed_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE users (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    email TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE memberships (
    org_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    role TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (org_id, user_id)
){{clustered}};

CREATE INDEX memberships_by_user ON memberships (user_id);

-- Personal access tokens: only the SHA-256 of a token is kept.
CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,
    user_id TEXT NOT NULL,
    name TEXT NOT NULL,
    hint TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    last_used_at BIGINT,
    revoked_at BIGINT
);

-- One row a database: the name of the master key in force.
CREATE TABLE sealing (
    one INTEGER PRIMARY KEY,
    master_id TEXT NOT NULL,
    changed_at BIGINT NOT NULL
);

-- Each organization's data key, wrapped by the master key of that name.
CREATE TABLE org_keys (
    org_id TEXT PRIMARY KEY,
    master_id TEXT NOT NULL,
    wrapped {{blob}} NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE providers (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL,
    name TEXT NOT NULL,
    provider_type TEXT NOT NULL,
    base_url TEXT,
    secrets {{blob}},
    api_key_set INTEGER NOT NULL,
    options TEXT NOT NULL,
    header_names TEXT NOT NULL,
    trace TEXT,
    status TEXT NOT NULL,
    last_synced_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE INDEX providers_by_org ON providers (org_id, created_at);

CREATE TABLE models (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL,
    provider_id TEXT NOT NULL,
    model_id TEXT NOT NULL,
    display_name TEXT NOT NULL,
    capabilities TEXT NOT NULL,
    enabled INTEGER NOT NULL,
    is_favorite INTEGER NOT NULL,
    source TEXT NOT NULL,
    context_tokens BIGINT,
    stale_since BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE INDEX models_by_provider ON models (org_id, provider_id);

CREATE TABLE harnesses (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL,
    name TEXT NOT NULL,
    display_name TEXT,
    description TEXT,
    system_prompt TEXT,
    parent_harness_id TEXT,
    default_model_id TEXT,
    tags TEXT NOT NULL,
    config TEXT NOT NULL,
    is_built_in INTEGER NOT NULL,
    status TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    archived_at BIGINT
);

CREATE UNIQUE INDEX harnesses_by_name ON harnesses (org_id, name) WHERE status = 'active';

CREATE TABLE agents (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL,
    name TEXT NOT NULL,
    display_name TEXT,
    description TEXT,
    system_prompt TEXT NOT NULL,
    harness_id TEXT NOT NULL,
    default_model_id TEXT,
    tags TEXT NOT NULL,
    config TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    archived_at BIGINT
);

CREATE UNIQUE INDEX agents_by_name ON agents (org_id, name) WHERE status = 'active';

CREATE INDEX agents_by_age ON agents (org_id, created_at, id);

-- head .. finished_at are the projection of the session's log, written with each append and nowhere else.
CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL,
    owner_id TEXT NOT NULL,
    harness_id TEXT NOT NULL,
    agent_id TEXT,
    title TEXT,
    title_folded TEXT GENERATED ALWAYS AS (LOWER(title)) STORED,
    tags TEXT NOT NULL,
    locale TEXT,
    model_id TEXT,
    config TEXT NOT NULL,
    forked_from_id TEXT,
    forked_from_sequence BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT,
    epoch BIGINT NOT NULL,
    recoveries INTEGER NOT NULL,
    claimed_head BIGINT NOT NULL,
    head BIGINT NOT NULL,
    status TEXT NOT NULL,
    turn_id TEXT,
    turn_after BIGINT NOT NULL,
    wake_at BIGINT,
    preview TEXT,
    output_preview TEXT,
    usage TEXT,
    started_at BIGINT,
    finished_at BIGINT,
    workspace_id TEXT,
    search_slot BIGINT
){{updated}};

CREATE INDEX sessions_by_age ON sessions (org_id, created_at, id) WHERE deleted_at IS NULL;

-- A search reads these one by one, so their titles are in this index, ready to be compared. The others it finds by search_terms.
CREATE INDEX sessions_unsorted ON sessions (org_id, created_at, id, title_folded) WHERE search_slot IS NULL AND deleted_at IS NULL;

CREATE INDEX sessions_by_slot ON sessions (org_id, search_slot, title_folded) WHERE search_slot IS NOT NULL AND deleted_at IS NULL;

CREATE INDEX sessions_by_agent ON sessions (org_id, agent_id, created_at) WHERE deleted_at IS NULL AND agent_id IS NOT NULL;

CREATE INDEX sessions_by_workspace ON sessions (workspace_id) WHERE workspace_id IS NOT NULL;

-- No index names updated_at: appends that change neither status nor title leave all indexes alone.
CREATE INDEX sessions_busy ON sessions (status, org_id, created_at, id)
    WHERE status IN ('active', 'waiting_for_tool_results', 'paused') AND deleted_at IS NULL;

CREATE INDEX sessions_due ON sessions (wake_at) WHERE wake_at IS NOT NULL AND deleted_at IS NULL;

-- How many sessions an organization has: the sum over its shards, of which there are several so that transactions which
-- create sessions do not wait for one another.
CREATE TABLE session_totals (
    org_id TEXT NOT NULL,
    shard INTEGER NOT NULL,
    sessions BIGINT NOT NULL,
    PRIMARY KEY (org_id, shard)
){{clustered}};

-- Which sessions of a segment have a term: up to three characters of the title, a tag, or the agent. The session at a
-- segment's position p has segment * 2,048 + p as its search_slot; one that has another slot by now, or none, has left the segment.
CREATE TABLE search_terms (
    org_id TEXT NOT NULL,
    segment BIGINT NOT NULL,
    term TEXT{{bytewise}} NOT NULL,
    members {{blob}} NOT NULL,
    PRIMARY KEY (org_id, segment, term)
){{clustered}};

-- newest is when the youngest session in it was created.
CREATE TABLE search_segments (
    org_id TEXT NOT NULL,
    segment BIGINT NOT NULL,
    newest BIGINT NOT NULL,
    PRIMARY KEY (org_id, segment)
){{clustered}};

CREATE TABLE pins (
    session_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    org_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (session_id, user_id)
){{clustered}};

CREATE INDEX pins_by_user ON pins (user_id, org_id);

-- "Always allow" and "always reject", for a tool in a session.
CREATE TABLE standing_approvals (
    session_id TEXT NOT NULL,
    tool_name TEXT NOT NULL,
    org_id TEXT NOT NULL,
    decision TEXT NOT NULL,
    PRIMARY KEY (session_id, tool_name)
){{clustered}};

CREATE TABLE events (
    session_id TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    org_id TEXT NOT NULL,
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    ts BIGINT NOT NULL,
    turn_id TEXT,
    exec_id TEXT,
    tool_name TEXT,
    context TEXT NOT NULL,
    data TEXT NOT NULL,
    metadata TEXT,
    tags TEXT,
    PRIMARY KEY (session_id, sequence)
){{clustered}};

-- Few sessions have any: a conversation is read from its last summary on.
CREATE INDEX events_compacted ON events (session_id, sequence) WHERE type = 'context.compacted';

-- Where files are. A session's own workspace has its session_id, and a row once it holds something. size_bytes and
-- file_count are kept up with every change of its files.
CREATE TABLE workspaces (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL,
    session_id TEXT,
    name TEXT NOT NULL,
    description TEXT,
    status TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    file_count BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    archived_at BIGINT
);

CREATE UNIQUE INDEX workspaces_by_name ON workspaces (org_id, name) WHERE status = 'active' AND session_id IS NULL;

-- hash is empty for folders; what has it is in blobs.
CREATE TABLE files (
    workspace_id TEXT NOT NULL,
    path TEXT{{bytewise}} NOT NULL,
    org_id TEXT NOT NULL,
    parent TEXT{{bytewise}} NOT NULL,
    is_directory INTEGER NOT NULL,
    is_readonly INTEGER NOT NULL,
    is_text INTEGER NOT NULL,
    size_bytes BIGINT NOT NULL,
    hash TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (workspace_id, path)
);

CREATE INDEX files_by_parent ON files (workspace_id, parent, path);

CREATE INDEX files_by_hash ON files (org_id, hash) WHERE is_directory = 0;

-- Contents, once for each organization, by their SHA-256. released_at is set when a file lets go of one: then it may be that no
-- file has it any more.
CREATE TABLE blobs (
    org_id TEXT NOT NULL,
    hash TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    released_at BIGINT,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (org_id, hash)
){{clustered}};

CREATE INDEX blobs_released ON blobs (released_at) WHERE released_at IS NOT NULL;

CREATE TABLE blob_parts (
    org_id TEXT NOT NULL,
    hash TEXT NOT NULL,
    part INTEGER NOT NULL,
    content {{blob}} NOT NULL,
    PRIMARY KEY (org_id, hash, part)
);

CREATE TABLE key_values (
    session_id TEXT NOT NULL,
    key TEXT{{bytewise}} NOT NULL,
    org_id TEXT NOT NULL,
    value TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (session_id, key)
);

-- Sealed with the organization's data key, bound to session and name.
CREATE TABLE secrets (
    session_id TEXT NOT NULL,
    name TEXT{{bytewise}} NOT NULL,
    org_id TEXT NOT NULL,
    sealed {{blob}} NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (session_id, name)
);

-- Each is one SQLite image, replaced as a whole, by compare and set on its version.
CREATE TABLE sql_databases (
    session_id TEXT NOT NULL,
    name TEXT{{bytewise}} NOT NULL,
    org_id TEXT NOT NULL,
    version BIGINT NOT NULL,
    image {{blob}} NOT NULL,
    size_bytes BIGINT NOT NULL,
    page_count BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (session_id, name)
);

-- next_at is NULL when a schedule is off or over. Whoever moves it on has the firing.
CREATE TABLE schedules (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    name TEXT,
    message TEXT NOT NULL,
    kind TEXT NOT NULL,
    cron TEXT,
    at BIGINT,
    timezone TEXT NOT NULL,
    enabled INTEGER NOT NULL,
    next_at BIGINT,
    last_fired_at BIGINT,
    fire_count BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE INDEX schedules_by_session ON schedules (session_id, created_at);

CREATE INDEX schedules_due ON schedules (next_at) WHERE next_at IS NOT NULL;

-- Answers to requests that carried an Idempotency-Key; kept for a day.
CREATE TABLE idempotency (
    org_id TEXT NOT NULL,
    key TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    status INTEGER NOT NULL,
    body {{blob}} NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (org_id, key)
);

-- What is being said right now, for followers on other machines who join in the middle: a row for each message that takes
-- longer than a moment, removed when it is complete. Losing a row loses nothing.
CREATE {{unlogged}} drafts (
    session_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    org_id TEXT NOT NULL,
    turn_id TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    start BIGINT NOT NULL,
    name TEXT NOT NULL,
    context TEXT NOT NULL,
    text TEXT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (session_id, kind, key)
);
