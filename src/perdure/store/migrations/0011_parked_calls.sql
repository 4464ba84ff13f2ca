-- The parked calls of a session, as JSON; and whether nobody works on it, because such calls are all that is
-- left.
ALTER TABLE sessions ADD COLUMN parked TEXT;

ALTER TABLE sessions ADD COLUMN resting INTEGER NOT NULL DEFAULT 0;

-- What the sweep looks at every few seconds: it must not grow with the sessions that rest.
CREATE INDEX sessions_running ON sessions (org_id, created_at, id)
    WHERE status = 'active' AND resting = 0 AND deleted_at IS NULL;

-- Open callbacks. Only the SHA-256 of a token is kept. in_background: the turn went on without the result.
CREATE TABLE callbacks (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    turn_id TEXT NOT NULL,
    exec_id TEXT NOT NULL,
    tool_call_id TEXT NOT NULL,
    tool_name TEXT NOT NULL,
    in_background INTEGER NOT NULL,
    created_at BIGINT NOT NULL,
    deadline BIGINT NOT NULL
);

CREATE INDEX callbacks_by_session ON callbacks (session_id, created_at);

CREATE INDEX callbacks_by_deadline ON callbacks (deadline);
