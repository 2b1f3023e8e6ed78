-- What was changed or refused, each row chained to the one before by its MAC. Rows are added, and
-- the oldest cut by retention; none is ever changed.
CREATE TABLE audit (
    seq BIGINT PRIMARY KEY NOT NULL,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    verb TEXT NOT NULL,
    object TEXT NOT NULL,
    outcome TEXT NOT NULL,
    detail TEXT NOT NULL,
    request_id TEXT NOT NULL,
    mac BLOB NOT NULL
);
CREATE INDEX audit_by_at ON audit (at);

-- The ends of the chain: the last row that was cut, and the last one written. Whoever adds a row
-- holds this one, so that they take turns.
CREATE TABLE audit_head (
    id INTEGER PRIMARY KEY NOT NULL CHECK (id = 1),
    base BIGINT NOT NULL,
    base_mac BLOB NOT NULL,
    count BIGINT NOT NULL,
    mac BLOB NOT NULL,
    seal BLOB NOT NULL
);
INSERT INTO audit_head (id, base, base_mac, count, mac, seal)
VALUES (1, 0, zeroblob(32), 0, zeroblob(32), x'');
