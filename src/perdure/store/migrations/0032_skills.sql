-- The registry of skills. version: the digest of the current files.
CREATE TABLE skills (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    archived_at BIGINT
);

CREATE UNIQUE INDEX skills_by_name ON skills (org_id, name);

CREATE INDEX skills_by_org ON skills (org_id, created_at);

-- Every version that a skill has had. They never change. facts: of the front matter, as JSON.
CREATE TABLE skill_versions (
    skill_id TEXT NOT NULL,
    version TEXT NOT NULL,
    org_id TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    source_type TEXT NOT NULL,
    facts TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (skill_id, version)
);

-- The files of the versions, SKILL.md included. Their contents are in blobs.
CREATE TABLE skill_files (
    skill_id TEXT NOT NULL,
    version TEXT NOT NULL,
    path TEXT NOT NULL,
    org_id TEXT NOT NULL,
    hash TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    is_text INTEGER NOT NULL,
    PRIMARY KEY (skill_id, version, path)
);

CREATE INDEX skill_files_by_hash ON skill_files (org_id, hash);
