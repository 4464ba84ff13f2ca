-- What health checks write, a row for each process: reads do not tell that a database is read-only or full.
CREATE TABLE probes (
    process TEXT NOT NULL,
    checked_at BIGINT NOT NULL,
    PRIMARY KEY (process)
){{clustered}};

-- The digest of the migration's file. NULL: applied by a version that did not record it.
ALTER TABLE migrations ADD COLUMN digest TEXT;
