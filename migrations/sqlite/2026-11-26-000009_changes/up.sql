-- Keys of tokens that speak for another node than before, or for one that is served something else:
-- whoever has them in memory forgets them. Written by the database itself, so that no program, an
-- older one above all, can leave it out.
CREATE TABLE changes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    token_key TEXT NOT NULL,
    -- The transaction, on PostgreSQL; here there is one writer at a time.
    tx BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX changes_by_tx ON changes (tx);

CREATE TRIGGER node_keys_changed AFTER UPDATE ON node_keys BEGIN
    INSERT INTO changes (token_key) SELECT token_key FROM tokens WHERE id = OLD.token_id;
END;
CREATE TRIGGER node_keys_deleted AFTER DELETE ON node_keys BEGIN
    INSERT INTO changes (token_key) SELECT token_key FROM tokens WHERE id = OLD.token_id;
END;
-- One that goes without having ended takes its node key along.
CREATE TRIGGER tokens_deleted BEFORE DELETE ON tokens WHEN OLD.ended_at IS NULL BEGIN
    INSERT INTO changes (token_key) VALUES (OLD.token_key);
END;
CREATE TRIGGER nodes_changed AFTER UPDATE OF hostname, ssh_keys, reprovisions ON nodes
WHEN OLD.hostname <> NEW.hostname OR OLD.ssh_keys <> NEW.ssh_keys OR OLD.reprovisions <> NEW.reprovisions
BEGIN
    INSERT INTO changes (token_key) SELECT t.token_key FROM node_keys k JOIN tokens t ON t.id = k.token_id
    WHERE k.system_id = NEW.system_id;
END;
CREATE TRIGGER contents_inserted AFTER INSERT ON contents BEGIN
    INSERT INTO changes (token_key) SELECT t.token_key FROM node_keys k JOIN tokens t ON t.id = k.token_id
    WHERE k.system_id = NEW.system_id;
END;
CREATE TRIGGER contents_updated AFTER UPDATE ON contents BEGIN
    INSERT INTO changes (token_key) SELECT t.token_key FROM node_keys k JOIN tokens t ON t.id = k.token_id
    WHERE k.system_id = NEW.system_id;
END;
CREATE TRIGGER contents_deleted AFTER DELETE ON contents BEGIN
    INSERT INTO changes (token_key) SELECT t.token_key FROM node_keys k JOIN tokens t ON t.id = k.token_id
    WHERE k.system_id = OLD.system_id;
END;

-- Up to where the log was swept: whoever had not read so far forgets everything.
INSERT INTO meta (name, value) VALUES ('changes-swept', CAST('0' AS BLOB));

-- Programs that know this migration and none after it may serve this database still, until a later
-- one takes away what they need and raises this.
INSERT INTO meta (name, value) VALUES ('serves-since', CAST('20261126000008' AS BLOB));
