-- external: where text from outside in the session came from, as JSON: '[]' if there is none. NULL for a
-- session that an older release began: nobody knows what it has read.
ALTER TABLE sessions ADD COLUMN external TEXT;

-- The same of a workspace: where text from outside in the sessions that have written its files came from.
-- NULL as long as none of them had any.
ALTER TABLE workspaces ADD COLUMN external TEXT;

-- For which reasons calls of the tool are decided, as JSON, beyond that the tool needs approval. NULL for a
-- decision that an older release recorded.
ALTER TABLE standing_approvals ADD COLUMN covers TEXT;
