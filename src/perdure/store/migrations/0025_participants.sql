-- The agent that a session was created with, as JSON, since it was handed off to another one.
ALTER TABLE sessions ADD COLUMN handed_from TEXT;

-- The agents and users that were added to sessions. `subject` is the agent's or the user's id.
-- Those that have left stay, because messages name them.
CREATE TABLE participants (
    session_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    org_id TEXT NOT NULL,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    agent_version_id TEXT,
    joined_at BIGINT NOT NULL,
    left_at BIGINT,
    PRIMARY KEY (session_id, subject)
){{clustered}};
