-- Trees of sessions. root_session_id: the session at the top, for a sub-agent's session. depth: 0 for a session that no
-- other has begun. task_id: the parent's task that the session works on. ended: the sequence of the event with which it
-- was done. news: the sequence of the last event that the parent has not heard of; NULL if it knows everything.
ALTER TABLE sessions ADD COLUMN root_session_id TEXT;
ALTER TABLE sessions ADD COLUMN depth INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN task_id TEXT;
ALTER TABLE sessions ADD COLUMN ended INTEGER;
ALTER TABLE sessions ADD COLUMN news INTEGER;

CREATE INDEX sessions_with_news ON sessions (id) WHERE news IS NOT NULL;

CREATE INDEX sessions_by_parent ON sessions (parent_session_id) WHERE parent_session_id IS NOT NULL;

-- Tasks, as the log of the session that began them has them; `task` is the whole task as JSON. effect_key: of the call
-- that began it, so that the call can be repeated. heard: the sequence, in the child's log, up to which the parent has
-- heard of it. wish: what is yet to be done to the child: 'cancel' or 'delete'.
CREATE TABLE tasks (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    root_session_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    effect_key TEXT NOT NULL,
    turn_id TEXT NOT NULL,
    child_session_id TEXT,
    heard INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    wish TEXT,
    deadline BIGINT,
    created_at BIGINT NOT NULL,
    finished_at BIGINT,
    task TEXT NOT NULL
);

CREATE UNIQUE INDEX tasks_by_key ON tasks (session_id, effect_key);

CREATE INDEX tasks_of_organization ON tasks (org_id, created_at, id);

CREATE INDEX tasks_of_root ON tasks (root_session_id, created_at);

CREATE INDEX tasks_due ON tasks (deadline) WHERE finished_at IS NULL AND deadline IS NOT NULL;

CREATE INDEX tasks_wished ON tasks (id) WHERE wish IS NOT NULL;

CREATE INDEX tasks_finished ON tasks (finished_at) WHERE finished_at IS NOT NULL;

-- Calls that wait for tasks: for all of them, or for any. tasks: their ids, as JSON.
CREATE TABLE task_waits (
    session_id TEXT NOT NULL,
    org_id TEXT NOT NULL,
    turn_id TEXT NOT NULL,
    exec_id TEXT NOT NULL,
    tool_call_id TEXT NOT NULL,
    tool_name TEXT NOT NULL,
    need TEXT NOT NULL,
    tasks TEXT NOT NULL,
    deadline BIGINT NOT NULL,
    PRIMARY KEY (session_id, exec_id, tool_call_id)
);

-- Messages to tasks and from them, as the log has them. content: as JSON.
CREATE TABLE task_messages (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    message TEXT NOT NULL
);

CREATE INDEX task_messages_of_task ON task_messages (task_id, id);
