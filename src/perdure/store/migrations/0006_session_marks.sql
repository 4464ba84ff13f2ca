-- What clients note about sessions: archived ones are hidden from lists, the source says where one began, the
-- parent is the session that made it, and the metadata are the client's own.
ALTER TABLE sessions ADD COLUMN archived_at BIGINT;

ALTER TABLE sessions ADD COLUMN source TEXT NOT NULL DEFAULT 'api';

ALTER TABLE sessions ADD COLUMN parent_session_id TEXT;

ALTER TABLE sessions ADD COLUMN metadata TEXT NOT NULL DEFAULT '{}';

CREATE INDEX sessions_open ON sessions (org_id, created_at, id)
    WHERE deleted_at IS NULL AND archived_at IS NULL;

CREATE INDEX sessions_archived ON sessions (org_id, created_at, id)
    WHERE deleted_at IS NULL AND archived_at IS NOT NULL;

-- The messages that clients gave ids of their own: the same id again is the same message.
CREATE TABLE client_messages (
    session_id TEXT NOT NULL,
    client_message_id TEXT NOT NULL,
    org_id TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    PRIMARY KEY (session_id, client_message_id)
);
