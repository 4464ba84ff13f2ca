-- What a model call holds of its budgets while it is under way: held, as JSON, and call: what the ledger says
-- of it. Once the call has ended (settled_at), charges has what it has cost them, as JSON, until it is booked
-- as their entries. So the end of a call writes one row, which its begin has added, for all of its budgets.
CREATE TABLE budget_holds_now (
    id TEXT NOT NULL,
    org_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    held TEXT NOT NULL,
    call TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    charges TEXT,
    source TEXT,
    settled_at BIGINT,
    PRIMARY KEY (session_id, id)
){{clustered}}{{updated}};

INSERT INTO budget_holds_now (id, org_id, session_id, epoch, held, call, created_at)
    SELECT id, org_id, session_id, epoch, held, call, created_at FROM budget_holds;

DROP TABLE budget_holds;

ALTER TABLE budget_holds_now RENAME TO budget_holds;
