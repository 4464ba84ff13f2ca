-- A token that somebody else made for a user works in that person's organization only.

ALTER TABLE tokens ADD COLUMN org_id TEXT;
