-- Who made a token, and all who may know it: that user, and the makers of the token that it was made with.
-- Both are unknown for tokens that somebody else made before these columns existed.

ALTER TABLE tokens ADD COLUMN created_by TEXT;

ALTER TABLE tokens ADD COLUMN makers TEXT;

UPDATE tokens SET created_by = user_id, makers = user_id WHERE org_id IS NULL;

CREATE INDEX tokens_by_user ON tokens (user_id, created_at);

CREATE INDEX tokens_by_org ON tokens (org_id) WHERE org_id IS NOT NULL;

-- The organization that added a user, and alone may add it again; NULL for other accounts.
ALTER TABLE users ADD COLUMN org_id TEXT;

CREATE INDEX users_by_org ON users (org_id) WHERE org_id IS NOT NULL;

-- Open invitations to join an organization with an existing account. Only the SHA-256 of the code is kept.
-- makers are all who may know it, as for tokens.
CREATE TABLE invitations (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL,
    hash TEXT NOT NULL,
    email TEXT,
    role TEXT NOT NULL,
    created_by TEXT NOT NULL,
    makers TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);

CREATE INDEX invitations_by_org ON invitations (org_id, created_at);
