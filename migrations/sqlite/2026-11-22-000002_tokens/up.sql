-- A consumer and its one token share an id (uuid v7, so that a cull walks neighbouring pages).
CREATE TABLE consumers (
    id BLOB PRIMARY KEY NOT NULL,
    user_id BLOB NOT NULL REFERENCES users (id),
    consumer_key TEXT NOT NULL UNIQUE CHECK (length(consumer_key) = 18)
);

CREATE TABLE tokens (
    id BLOB PRIMARY KEY NOT NULL REFERENCES consumers (id) ON DELETE CASCADE,
    token_key TEXT NOT NULL UNIQUE CHECK (length(token_key) = 18),
    sealed_secret BLOB NOT NULL,
    -- The node it was made for, for the record: it stays when the node is gone.
    made_for TEXT,
    created_at BIGINT NOT NULL,
    last_used_at BIGINT,
    ended_at BIGINT,
    ended_by TEXT CHECK (ended_by IN ('revoke', 'cull', 'reissue', 'reprovision', 'project', 'removal')),
    CHECK ((ended_at IS NULL) = (ended_by IS NULL))
);
CREATE INDEX tokens_ended ON tokens (ended_at) WHERE ended_at IS NOT NULL;

-- This token speaks for this node. A token that has ended has no row here.
CREATE TABLE node_keys (
    token_id BLOB PRIMARY KEY NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    system_id TEXT NOT NULL REFERENCES nodes (system_id) ON DELETE RESTRICT,
    state TEXT NOT NULL CHECK (state IN ('live', 'retiring')),
    retires_at BIGINT,
    CHECK ((state = 'retiring') = (retires_at IS NOT NULL)),
    -- At most one live and one retiring token a node.
    UNIQUE (system_id, state)
);
