-- Links that decide an item of the inbox. hash: the SHA-256 of the link's token. made_with: the access token
-- that it was made with; without one on a server without a login.
CREATE TABLE inbox_links (
    hash TEXT PRIMARY KEY,
    org_id TEXT NOT NULL,
    item_id TEXT NOT NULL,
    made_by TEXT NOT NULL,
    made_with TEXT,
    created_at BIGINT NOT NULL,
    deadline BIGINT NOT NULL
);

CREATE INDEX inbox_links_by_item ON inbox_links (item_id);

CREATE INDEX inbox_links_by_deadline ON inbox_links (deadline);
