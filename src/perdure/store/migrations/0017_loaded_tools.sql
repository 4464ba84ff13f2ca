-- The names of the deferred tools that the session's model is offered, as JSON. Part of the projection.
ALTER TABLE sessions ADD COLUMN loaded_tools TEXT;
