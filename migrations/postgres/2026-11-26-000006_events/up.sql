-- What nodes reported. A row is never changed.
CREATE TABLE events (
    id BYTEA PRIMARY KEY NOT NULL,
    system_id TEXT COLLATE "C" NOT NULL REFERENCES nodes (system_id) ON DELETE CASCADE,
    -- The token that signed it, for the record: it stays when the token is swept.
    token_id BYTEA NOT NULL,
    origin TEXT NOT NULL,
    name TEXT NOT NULL,
    event_type TEXT NOT NULL CHECK (event_type IN ('start', 'progress', 'finish', 'signal')),
    result TEXT CHECK (result IN ('SUCCESS', 'WARN', 'FAIL')),
    description TEXT NOT NULL,
    -- The node's own time, where it is one.
    node_time BIGINT,
    received_at BIGINT NOT NULL,
    -- Everything else it said, as JSON.
    extra TEXT NOT NULL,
    -- SHA-256 of what makes a repeat; NULL: never one.
    repeat_of BYTEA UNIQUE
);
CREATE UNIQUE INDEX events_by_node ON events (system_id, id);
CREATE INDEX events_by_receipt ON events (received_at);

CREATE TABLE event_files (
    event_id BYTEA NOT NULL REFERENCES events (id) ON DELETE CASCADE,
    ordinal INTEGER NOT NULL CHECK (ordinal >= 0),
    path TEXT NOT NULL,
    -- NULL: the node had no such file.
    sha256 BYTEA REFERENCES blobs (sha256),
    size BIGINT NOT NULL,
    PRIMARY KEY (event_id, ordinal)
);
CREATE INDEX event_files_by_blob ON event_files (sha256) WHERE sha256 IS NOT NULL;

-- Nonces of what nodes wrote, by the SHA-256 of token key, timestamp and nonce: none is taken twice.
CREATE TABLE node_nonces (
    digest BYTEA PRIMARY KEY NOT NULL,
    timestamp BIGINT NOT NULL
);
CREATE INDEX node_nonces_by_timestamp ON node_nonces (timestamp);
