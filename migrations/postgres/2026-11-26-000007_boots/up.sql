-- How far each node has come: the kept fold of what it read and reported, and what follows from it.
-- No row: nothing yet.
CREATE TABLE boots (
    system_id TEXT COLLATE "C" PRIMARY KEY NOT NULL REFERENCES nodes (system_id) ON DELETE CASCADE,
    fold TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('issued', 'claimed', 'contacted', 'booting', 'ready', 'failed')),
    stage TEXT NOT NULL,
    since BIGINT NOT NULL,
    -- From then on the state is failed, unless the node goes on before.
    fails_at BIGINT
);
CREATE INDEX boots_by_state ON boots (state, since);
