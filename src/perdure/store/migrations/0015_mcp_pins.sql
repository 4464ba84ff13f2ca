-- The definitions of MCP servers' tools as they were first seen or last accepted, as digests. `server` is the
-- id of a registered server, or `inline:` and the digest of an inline one's URL.
CREATE TABLE mcp_pins (
    org_id TEXT NOT NULL,
    server TEXT NOT NULL,
    tool TEXT NOT NULL,
    digest TEXT NOT NULL,
    pinned_at BIGINT NOT NULL,
    PRIMARY KEY (org_id, server, tool)
){{clustered}};

-- The definition that a standing approval was given to; NULL for a tool whose definition does not change.
ALTER TABLE standing_approvals ADD COLUMN definition TEXT;
