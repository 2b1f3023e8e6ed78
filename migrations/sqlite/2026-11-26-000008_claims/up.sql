-- A capability URL for one preseed of one boot, by the SHA-256 of its secret.
CREATE TABLE claims (
    hash BLOB PRIMARY KEY NOT NULL,
    -- For the record: it stays when the node is gone.
    system_id TEXT NOT NULL,
    token_id BLOB NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    format TEXT NOT NULL,
    source_network TEXT,
    made_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    first_fetched_at BIGINT,
    -- The address that fetched it first, and alone may fetch it again.
    bound_to TEXT,
    fetches INTEGER NOT NULL DEFAULT 0,
    closed_at BIGINT,
    closed_by TEXT CHECK (closed_by IN ('token', 'newer', 'progress')),
    CHECK ((first_fetched_at IS NULL) = (bound_to IS NULL)),
    CHECK ((closed_at IS NULL) = (closed_by IS NULL))
) WITHOUT ROWID;
-- A new claim of a node closes its older ones.
CREATE UNIQUE INDEX claims_open ON claims (system_id) WHERE closed_at IS NULL;
CREATE INDEX claims_by_token ON claims (token_id);
CREATE INDEX claims_by_expiry ON claims (expires_at);

-- Superseded tokens by their deadline, for the sweep.
CREATE INDEX node_keys_by_deadline ON node_keys (retires_at) WHERE retires_at IS NOT NULL;
