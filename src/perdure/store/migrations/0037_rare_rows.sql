-- What a server looks for at its start, or every few seconds, among rows of which nearly none are meant: it
-- must not read those of everything that waits.

-- Sessions that wait since a release that did not note what for.
CREATE INDEX sessions_unnoted ON sessions (org_id, created_at, id)
    WHERE status = 'waiting_for_tool_results' AND parked IS NULL AND deleted_at IS NULL;

-- Tools that run in the background, beside the tasks of sub-agents.
CREATE INDEX tasks_of_tools ON tasks (deadline)
    WHERE finished_at IS NULL AND deadline IS NOT NULL AND kind = 'background_tool' AND wish IS NULL;
