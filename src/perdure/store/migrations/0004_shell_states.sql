-- What a session's shell remembers between two commands: one bash script that brings it back.

CREATE TABLE shell_states (
    session_id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL,
    snapshot TEXT NOT NULL,
    updated_at BIGINT NOT NULL
);
