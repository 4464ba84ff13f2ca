-- The ledger: one row for each model call, kept when its session is deleted. cost: in billionths of a US
-- dollar, NULL if the price is not known; price: as JSON. kind: `turn`, `summary`, or `lost` for a call whose
-- end never arrived.
CREATE TABLE model_calls (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    session_id TEXT NOT NULL,
    root_session_id TEXT NOT NULL,
    agent_id TEXT,
    user_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    provider TEXT,
    model TEXT NOT NULL,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    cache_read_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    cost BIGINT,
    price TEXT
);

CREATE INDEX model_calls_by_time ON model_calls (org_id, created_at, id);

CREATE INDEX model_calls_of_tree ON model_calls (org_id, root_session_id, created_at);
