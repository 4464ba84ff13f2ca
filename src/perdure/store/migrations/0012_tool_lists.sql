-- Which lists of discovered tools the model calls of a session used. The lists themselves are in `blobs`.

CREATE TABLE tool_lists (
    session_id TEXT NOT NULL,
    hash TEXT NOT NULL,
    org_id TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    PRIMARY KEY (session_id, hash)
);
CREATE INDEX tool_lists_by_hash ON tool_lists (org_id, hash);
