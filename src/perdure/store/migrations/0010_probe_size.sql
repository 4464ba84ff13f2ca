-- After a full or failing disk, a health check writes a row that is large enough to meet the failure again.
ALTER TABLE probes ADD COLUMN filler TEXT;
