-- Searches leave archived sessions out, so the indexes that they read without the rows also need this column.
DROP INDEX sessions_unsorted;

CREATE INDEX sessions_unsorted ON sessions (org_id, created_at, id, title_folded, archived_at)
    WHERE search_slot IS NULL AND deleted_at IS NULL;

DROP INDEX sessions_by_slot;

CREATE INDEX sessions_by_slot ON sessions (org_id, search_slot, title_folded, archived_at)
    WHERE search_slot IS NOT NULL AND deleted_at IS NULL;
