-- The bytes, once each: a fleet that shares one user-data stores it once.
CREATE TABLE blobs (
    sha256 BYTEA PRIMARY KEY NOT NULL,
    bytes BYTEA NOT NULL
);

-- Every version of a node's user-data and vendor-data; the highest is the current one.
CREATE TABLE contents (
    system_id TEXT COLLATE "C" NOT NULL REFERENCES nodes (system_id) ON DELETE CASCADE,
    kind TEXT NOT NULL CHECK (kind IN ('user-data', 'vendor-data')),
    version INTEGER NOT NULL CHECK (version > 0),
    -- NULL: cleared.
    sha256 BYTEA REFERENCES blobs (sha256),
    size BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (system_id, kind, version)
);
CREATE INDEX contents_by_blob ON contents (sha256) WHERE sha256 IS NOT NULL;
