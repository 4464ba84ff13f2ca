-- How many days an organization keeps what it has of a kind; 0: for ever. Without a row, the server's setting
-- holds.
CREATE TABLE retention (
    org_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    days BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (org_id, kind)
);

-- What retention has deleted, by the day since the Unix epoch.
CREATE TABLE retention_days (
    org_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    day BIGINT NOT NULL,
    deleted BIGINT NOT NULL,
    PRIMARY KEY (org_id, kind, day)
);

-- Erasures of sessions and users. stage: what is being erased now; place: how far, as JSON. pseudonym: what
-- stands in place of a user's id from now on, forgotten at the end. taken_until: a process works on it until
-- then. remains: what is left, as JSON.
CREATE TABLE erasures (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    requested_by TEXT NOT NULL,
    stage TEXT NOT NULL,
    place TEXT NOT NULL,
    pseudonym TEXT,
    remains TEXT NOT NULL,
    taken_until BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    finished_at BIGINT
);

CREATE UNIQUE INDEX erasures_running ON erasures (org_id, subject_id) WHERE finished_at IS NULL;

CREATE INDEX erasures_by_org ON erasures (org_id, created_at, id);

CREATE INDEX erasures_of_subject ON erasures (subject_id, created_at);

-- How many rows of a kind an erasure has removed or changed, and their bytes.
CREATE TABLE erasure_counts (
    erasure_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    org_id TEXT NOT NULL,
    items BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    PRIMARY KEY (erasure_id, kind)
);

-- The erasure that a session belongs to. held_at: since when nobody may delete it (legal hold).
ALTER TABLE sessions ADD COLUMN erasure_id TEXT;

ALTER TABLE sessions ADD COLUMN held_at BIGINT;

CREATE INDEX sessions_erased ON sessions (erasure_id) WHERE erasure_id IS NOT NULL;

-- Few at any time: their rows are removed an hour later.
CREATE INDEX sessions_deleted ON sessions (deleted_at) WHERE deleted_at IS NOT NULL;

-- The session that an answer is about; NULL for none, and for answers of older releases.
ALTER TABLE idempotency ADD COLUMN session_id TEXT;

CREATE INDEX idempotency_of_session ON idempotency (session_id) WHERE session_id IS NOT NULL;
