-- What people say about an agent's messages: the fold of a session's `message.feedback` events.
-- message_sequence is the message's place in the log; first_sequence and sequence are those of the first and
-- the last event about it.
CREATE TABLE feedback (
    session_id TEXT NOT NULL,
    message_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    org_id TEXT NOT NULL,
    rating TEXT,
    comment TEXT,
    message_sequence BIGINT NOT NULL,
    first_sequence BIGINT NOT NULL,
    sequence BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (session_id, message_id, user_id)
){{clustered}};

-- Lists of sessions ask for those with a rating.
CREATE INDEX feedback_by_rating ON feedback (org_id, rating, session_id) WHERE rating IS NOT NULL;
