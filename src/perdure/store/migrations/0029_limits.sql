-- Limits of organizations and users. subject: organization, for all of it, or user, for each of its users. A
-- value that is NULL is the server's.
CREATE TABLE limits (
    org_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    active_turns BIGINT,
    open_sessions BIGINT,
    requests_per_minute BIGINT,
    tokens_per_minute BIGINT,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (org_id, subject)
);

CREATE INDEX limits_by_change ON limits (updated_at);

-- What each process has counted in a minute since the epoch, for those who have a limit. what: requests or
-- tokens. user_id: empty for the whole organization.
CREATE {{unlogged}} minute_counts (
    minute BIGINT NOT NULL,
    process TEXT NOT NULL,
    what TEXT NOT NULL,
    org_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    amount BIGINT NOT NULL,
    PRIMARY KEY (minute, process, what, org_id, user_id)
);

-- turn_slot: 1 while the session's turn counts as active, 2 while it waits because its organization has as
-- many as it may, 3 because its user has. Otherwise 0.
ALTER TABLE sessions ADD COLUMN turn_slot INTEGER NOT NULL DEFAULT 0;

CREATE INDEX sessions_by_turn_slot ON sessions (org_id, turn_slot, owner_id, wake_at)
    WHERE turn_slot > 0 AND deleted_at IS NULL;

CREATE INDEX sessions_open_of ON sessions (org_id, owner_id) WHERE deleted_at IS NULL AND archived_at IS NULL;
