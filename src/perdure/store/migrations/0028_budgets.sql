-- Budgets. Amounts are billionths of a US dollar, or tokens. spent: what was collected from the shards in
-- this period; leased: what the shards have leased. credit: top-ups in this period. buckets: what a rolling
-- period has spent, by its parts, as JSON. warned: the soft limit was reached in this period.
CREATE TABLE budgets (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL,
    subject_type TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    currency TEXT NOT NULL,
    limit_amount BIGINT NOT NULL,
    soft_limit BIGINT,
    credit BIGINT NOT NULL,
    period TEXT,
    period_started_at BIGINT,
    rolls_at BIGINT,
    status TEXT NOT NULL,
    unpriced TEXT,
    metadata TEXT NOT NULL,
    spent BIGINT NOT NULL,
    leased BIGINT NOT NULL,
    buckets TEXT,
    warned INTEGER NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE INDEX budgets_of_subject ON budgets (org_id, subject_id);

-- A budget's money in parts, so that sessions at work do not wait for each other's commits. spent: settled
-- since it was last collected; reserved: held for model calls that are under way.
CREATE TABLE budget_shards (
    budget_id TEXT NOT NULL,
    shard INTEGER NOT NULL,
    leased BIGINT NOT NULL,
    spent BIGINT NOT NULL,
    reserved BIGINT NOT NULL,
    PRIMARY KEY (budget_id, shard)
){{updated}};

-- What a model call that is under way holds of its budgets. held: as JSON; call: what the ledger says of it.
-- Every model call inserts a row and deletes it, and there are few at any time: one index has to do.
CREATE TABLE budget_holds (
    id TEXT NOT NULL,
    org_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    held TEXT NOT NULL,
    call TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (session_id, id)
);

-- What was charged to budgets, and credited (negative amounts). Rows are never changed.
CREATE TABLE budget_entries (
    id TEXT NOT NULL,
    org_id TEXT NOT NULL,
    budget_id TEXT NOT NULL,
    amount BIGINT NOT NULL,
    source TEXT NOT NULL,
    session_id TEXT,
    ref_type TEXT,
    ref_id TEXT,
    description TEXT,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (budget_id, created_at, id)
);

-- Sessions whose turns wait for a budget.
CREATE TABLE budget_waits (
    session_id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL,
    budget_id TEXT NOT NULL,
    needed BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE INDEX budget_waits_of_budget ON budget_waits (budget_id, created_at);
