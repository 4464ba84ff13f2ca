-- The processes of the server, for operators: nothing else depends on it. Times are the database's, in
-- microseconds. role: `all`, `api` or `worker`. sessions and breakers: what it works on and which models fail
-- there, as JSON. drain: 1 if an operator wants it to take no more turns; state: how far it is.
CREATE TABLE processes (
    id TEXT PRIMARY KEY,
    role TEXT NOT NULL,
    host TEXT NOT NULL,
    pid BIGINT NOT NULL,
    version TEXT NOT NULL,
    places BIGINT NOT NULL,
    state TEXT NOT NULL,
    running BIGINT NOT NULL,
    completed BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    sessions TEXT NOT NULL,
    breakers TEXT NOT NULL,
    drain BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    seen_at BIGINT NOT NULL
){{updated}};

-- What all processes have counted in a minute, in minutes since the Unix epoch. Kept for a day.
CREATE TABLE turn_minutes (
    minute BIGINT PRIMARY KEY,
    completed BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    cancelled BIGINT NOT NULL,
    sealed BIGINT NOT NULL,
    recoveries BIGINT NOT NULL,
    model_calls BIGINT NOT NULL,
    model_failures BIGINT NOT NULL,
    tokens BIGINT NOT NULL
){{updated}};

-- Sessions whose last turn was sealed. A message that begins another turn takes them out.
CREATE INDEX sessions_sealed ON sessions (org_id, finished_at, id)
    WHERE finished_at IS NOT NULL AND deleted_at IS NULL;
