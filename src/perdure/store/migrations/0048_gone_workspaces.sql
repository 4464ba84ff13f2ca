-- Workspaces that nobody reaches, whose files a sweep removes in batches from due_at on, in microseconds:
-- those of deleted sessions, and copies that are being made. A copy that is complete loses its row here.
CREATE TABLE gone_workspaces (
    workspace_id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL,
    due_at BIGINT NOT NULL
){{updated}};

CREATE INDEX gone_workspaces_due ON gone_workspaces (due_at);
