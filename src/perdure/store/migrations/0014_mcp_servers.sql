-- Registered MCP servers. `headers` has the values that may be shown, and `***` for those in `secrets`, which
-- is encrypted together with the API key. `rules`, `headers` and `labels` are JSON objects.
CREATE TABLE mcp_servers (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL,
    name TEXT NOT NULL,
    slug TEXT NOT NULL,
    url TEXT NOT NULL,
    description TEXT,
    auth_mode TEXT NOT NULL,
    protocol_mode TEXT NOT NULL,
    status TEXT NOT NULL,
    rules TEXT NOT NULL,
    headers TEXT NOT NULL,
    labels TEXT NOT NULL,
    secrets {{blob}},
    api_key_set INTEGER NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    archived_at BIGINT
);

CREATE UNIQUE INDEX mcp_servers_by_slug ON mcp_servers (org_id, slug);

CREATE INDEX mcp_servers_by_org ON mcp_servers (org_id, created_at);
