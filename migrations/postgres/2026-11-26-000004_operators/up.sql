-- Names are compared without the case of their letters.
ALTER TABLE users ADD COLUMN name_folded TEXT NOT NULL DEFAULT '';
ALTER TABLE users ADD COLUMN email TEXT;
ALTER TABLE users ADD COLUMN default_project BYTEA;
-- argon2id in PHC form; NULL: nobody can log in.
ALTER TABLE users ADD COLUMN password_hash TEXT;
UPDATE users SET name_folded = lower(name);
CREATE UNIQUE INDEX users_by_folded_name ON users (name_folded);

ALTER TABLE projects ADD COLUMN name_folded TEXT NOT NULL DEFAULT '';
ALTER TABLE projects ADD COLUMN description TEXT;
ALTER TABLE projects ADD COLUMN enabled BOOLEAN NOT NULL DEFAULT TRUE;
UPDATE projects SET name_folded = lower(name);
CREATE UNIQUE INDEX projects_by_folded_name ON projects (name_folded);

-- What a user is in a project.
CREATE TABLE grants (
    user_id BYTEA NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    project_id BYTEA NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    role TEXT NOT NULL CHECK (role IN ('admin', 'provisioner', 'reader', 'service')),
    PRIMARY KEY (user_id, project_id, role)
);
CREATE INDEX grants_by_project ON grants (project_id);

-- Bearer tokens of operators, by their SHA-256. What kills a token deletes its row, for ever.
CREATE TABLE operator_tokens (
    hash BYTEA PRIMARY KEY NOT NULL,
    audit_id TEXT NOT NULL,
    user_id BYTEA NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    project_id BYTEA REFERENCES projects (id) ON DELETE CASCADE,
    issued_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX operator_tokens_by_user ON operator_tokens (user_id);
CREATE INDEX operator_tokens_by_project ON operator_tokens (project_id);
CREATE INDEX operator_tokens_by_expiry ON operator_tokens (expires_at);

-- Changed by every write that may take something away from a token: what was read under another
-- epoch is read again.
INSERT INTO meta (name, value) VALUES ('auth-epoch', '\x00');
