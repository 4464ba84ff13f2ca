-- Lists of tasks and trees of sessions: the sessions below a root, a session's tasks by age, and tasks that
-- go on, which are few at any time.
CREATE INDEX sessions_by_root ON sessions (root_session_id) WHERE root_session_id IS NOT NULL;

CREATE INDEX tasks_of_session ON tasks (session_id, created_at, id);

CREATE INDEX tasks_open ON tasks (org_id, created_at, id) WHERE finished_at IS NULL;

-- place: the message's number among those of its task, in the order of the log of the task's session. A
-- sub-agent's message may be older than one that arrived before it, so its id does not say it.
ALTER TABLE task_messages ADD COLUMN place INTEGER NOT NULL DEFAULT 0;

DROP INDEX task_messages_of_task;

CREATE INDEX task_messages_by_place ON task_messages (task_id, place);
