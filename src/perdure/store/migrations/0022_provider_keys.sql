-- What the vendor said of the provider's key when it was last checked, and when that was.
ALTER TABLE providers ADD COLUMN key_status TEXT;

ALTER TABLE providers ADD COLUMN key_checked_at BIGINT;
