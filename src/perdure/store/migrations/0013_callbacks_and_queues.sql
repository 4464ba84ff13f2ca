-- When a callback was answered; NULL while it is open. Answered ones are kept for a day. Before, their
-- session_id had a prefix, and their deadline was when they were answered.
ALTER TABLE callbacks ADD COLUMN answered_at BIGINT;

UPDATE callbacks SET answered_at = deadline, session_id = substr(session_id, 10)
    WHERE session_id LIKE 'answered:%';

-- What looks for a session's open callbacks reads none of those that were answered.
DROP INDEX callbacks_by_session;

CREATE INDEX callbacks_by_session ON callbacks (session_id, answered_at, created_at);

CREATE INDEX callbacks_by_answer ON callbacks (answered_at) WHERE answered_at IS NOT NULL;

-- The messages that wait for turns of their own, as JSON. Part of the projection.
ALTER TABLE sessions ADD COLUMN queued TEXT;

-- One row a database: what the tokens of callbacks are signed with, so that a guess is refused without a look
-- into `callbacks`. It opens nothing by itself.
CREATE TABLE callback_keys (
    one INTEGER PRIMARY KEY,
    signing_key TEXT NOT NULL
);
