-- A consumer and its one token share an id (uuid v7, so that a cull walks neighbouring pages).
CREATE TABLE consumers (
    id BYTEA PRIMARY KEY NOT NULL,
    user_id BYTEA NOT NULL REFERENCES users (id),
    consumer_key TEXT COLLATE "C" NOT NULL UNIQUE CHECK (length(consumer_key) = 18)
);

CREATE TABLE tokens (
    id BYTEA PRIMARY KEY NOT NULL REFERENCES consumers (id) ON DELETE CASCADE,
    token_key TEXT COLLATE "C" NOT NULL UNIQUE CHECK (length(token_key) = 18),
    sealed_secret BYTEA NOT NULL,
    -- The node it was made for, for the record: it stays when the node is gone.
    made_for TEXT COLLATE "C",
    created_at BIGINT NOT NULL,
    last_used_at BIGINT,
    ended_at BIGINT,
    ended_by TEXT CHECK (ended_by IN ('revoke', 'cull', 'reissue', 'reprovision', 'project', 'removal')),
    CHECK ((ended_at IS NULL) = (ended_by IS NULL))
);
CREATE INDEX tokens_ended ON tokens (ended_at) WHERE ended_at IS NOT NULL;

-- This token speaks for this node. A token that has ended has no row here.
CREATE TABLE node_keys (
    token_id BYTEA PRIMARY KEY NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    system_id TEXT COLLATE "C" NOT NULL REFERENCES nodes (system_id) ON DELETE RESTRICT,
    state TEXT NOT NULL CHECK (state IN ('live', 'retiring')),
    retires_at BIGINT,
    CHECK ((state = 'retiring') = (retires_at IS NOT NULL)),
    -- At most one live and one retiring token a node.
    UNIQUE (system_id, state)
);
