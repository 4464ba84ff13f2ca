-- Webhooks: of an organization (task_id = ''), or of one task (push configurations). secret: encrypted.
-- wanted: the filter of events, as JSON. failures: failed attempts since the last one that succeeded;
-- failing_since: of the first of them. disabled_reason: why the server has disabled it.
CREATE TABLE webhooks (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    url TEXT NOT NULL,
    secret {{blob}} NOT NULL,
    wanted TEXT NOT NULL,
    enabled INTEGER NOT NULL,
    disabled_reason TEXT,
    failures INTEGER NOT NULL,
    failing_since BIGINT,
    last_error TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE INDEX webhooks_of_task ON webhooks (org_id, task_id);

-- Events on their way to webhooks. The event itself stays in the log. due_at: of the next attempt; NULL once
-- it has ended.
CREATE TABLE webhook_deliveries (
    id TEXT PRIMARY KEY,
    hook_id TEXT NOT NULL,
    org_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    type TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    due_at BIGINT,
    status_code INTEGER,
    error TEXT,
    created_at BIGINT NOT NULL,
    ended_at BIGINT
);

CREATE INDEX webhook_deliveries_of_hook ON webhook_deliveries (hook_id, created_at);

CREATE INDEX webhook_deliveries_of_line ON webhook_deliveries (hook_id, session_id, sequence)
    WHERE due_at IS NOT NULL;

CREATE INDEX webhook_deliveries_by_age ON webhook_deliveries (created_at);

-- What is left to send to a webhook of a session's events: one line, in the order of the log. due_at: of its
-- next attempt; NULL while the webhook is disabled. leased_until: whoever sends has it until then.
CREATE TABLE webhook_lines (
    hook_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    org_id TEXT NOT NULL,
    due_at BIGINT,
    leased_until BIGINT NOT NULL,
    PRIMARY KEY (hook_id, session_id)
);

CREATE INDEX webhook_lines_due ON webhook_lines (due_at) WHERE due_at IS NOT NULL;
