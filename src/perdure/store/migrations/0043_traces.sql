-- Turns that have ended and whose spans are not exported yet. Rows are added only while traces are exported.
CREATE TABLE trace_turns (
    session_id TEXT NOT NULL,
    turn_id TEXT NOT NULL,
    org_id TEXT NOT NULL,
    after_sequence BIGINT NOT NULL,
    through_sequence BIGINT NOT NULL,
    ended_at BIGINT NOT NULL,
    taken_until BIGINT NOT NULL,
    PRIMARY KEY (session_id, turn_id)
);

CREATE INDEX trace_turns_by_end ON trace_turns (ended_at);
