-- What this database belongs to: the check value of its secret key.
CREATE TABLE meta (
    name TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    value BYTEA NOT NULL
);

CREATE TABLE projects (
    id BYTEA PRIMARY KEY NOT NULL,
    name TEXT COLLATE "C" NOT NULL UNIQUE
);
INSERT INTO projects (id, name) VALUES ('\x019a00000000700080000000000000f1', 'default');

-- node-init owns every node's token; it is disabled, so nobody can log in as it.
CREATE TABLE users (
    id BYTEA PRIMARY KEY NOT NULL,
    name TEXT COLLATE "C" NOT NULL UNIQUE,
    enabled BOOLEAN NOT NULL
);
INSERT INTO users (id, name, enabled) VALUES ('\x019a00000000700080000000000000a1', 'node-init', FALSE);

CREATE TABLE nodes (
    system_id TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    project_id BYTEA NOT NULL REFERENCES projects (id),
    hostname TEXT NOT NULL,
    hostname_folded TEXT COLLATE "C" NOT NULL,
    macs TEXT NOT NULL,
    ssh_keys TEXT NOT NULL,
    labels TEXT NOT NULL,
    netboot BOOLEAN NOT NULL,
    reprovisions INTEGER NOT NULL CHECK (reprovisions >= 0),
    created_at BIGINT NOT NULL,
    UNIQUE (project_id, hostname_folded)
);
CREATE UNIQUE INDEX nodes_by_project ON nodes (project_id, system_id);

-- The labels again, one row each, so that a filter is an index range and not a scan.
CREATE TABLE node_labels (
    name TEXT COLLATE "C" NOT NULL,
    value TEXT COLLATE "C" NOT NULL,
    system_id TEXT COLLATE "C" NOT NULL REFERENCES nodes (system_id) ON DELETE CASCADE,
    PRIMARY KEY (system_id, name)
);
CREATE INDEX node_labels_by_value ON node_labels (name, value, system_id);
