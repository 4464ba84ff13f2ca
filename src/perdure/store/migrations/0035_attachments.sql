-- Contents that something besides files needs, so that they are not purged: the files of a session's
-- messages, and uploaded images with their thumbnails. `owner` is the id of the session or of the image.
CREATE TABLE content_holds (
    owner TEXT NOT NULL,
    hash TEXT NOT NULL,
    org_id TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    PRIMARY KEY (owner, hash)
);
CREATE INDEX content_holds_by_hash ON content_holds (org_id, hash);

-- Uploaded images. Their bytes are in `blobs`. `session_id`: the session that it ends with, if one was named.
CREATE TABLE images (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL,
    session_id TEXT,
    filename TEXT NOT NULL,
    content_type TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    hash TEXT NOT NULL,
    thumbnail TEXT,
    thumbnail_bytes INTEGER NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX images_by_org ON images (org_id, created_at, id);
CREATE INDEX images_by_session ON images (session_id);
