-- The ids of the models to use when one does not answer, as JSON, for sessions and agents that name none.
ALTER TABLE organizations ADD COLUMN fallback_models TEXT NOT NULL DEFAULT '[]';
