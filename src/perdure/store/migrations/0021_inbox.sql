-- The sessions that wait for something, for the inbox: few of all, and found without a look at the others.
CREATE INDEX sessions_parked ON sessions (org_id, id) WHERE parked IS NOT NULL;
