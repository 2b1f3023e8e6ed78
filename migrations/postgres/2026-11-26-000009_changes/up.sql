-- Keys of tokens that speak for another node than before, or for one that is served something else:
-- whoever has them in memory forgets them. Written by the database itself, so that no program, an
-- older one above all, can leave it out.
CREATE TABLE changes (
    seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    token_key TEXT COLLATE "C" NOT NULL,
    -- The transaction: whoever reads what came since a snapshot asks for those that were not over in
    -- it, whatever the order in which they end.
    tx BIGINT NOT NULL DEFAULT (pg_current_xact_id()::text::bigint)
);
CREATE INDEX changes_by_tx ON changes (tx);

-- A statement logs once for all its rows.
CREATE FUNCTION log_node_keys() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO changes (token_key) SELECT t.token_key FROM gone JOIN tokens t ON t.id = gone.token_id;
    RETURN NULL;
END $$;
CREATE TRIGGER node_keys_changed AFTER UPDATE ON node_keys
REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION log_node_keys();
CREATE TRIGGER node_keys_deleted AFTER DELETE ON node_keys
REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION log_node_keys();

-- One that goes without having ended takes its node key along.
CREATE FUNCTION log_token() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO changes (token_key) VALUES (OLD.token_key);
    RETURN OLD;
END $$;
CREATE TRIGGER tokens_deleted BEFORE DELETE ON tokens
FOR EACH ROW WHEN (OLD.ended_at IS NULL) EXECUTE FUNCTION log_token();

CREATE FUNCTION log_node() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO changes (token_key) SELECT t.token_key FROM node_keys k JOIN tokens t ON t.id = k.token_id
    WHERE k.system_id = NEW.system_id;
    RETURN NULL;
END $$;
CREATE TRIGGER nodes_changed AFTER UPDATE OF hostname, ssh_keys, reprovisions ON nodes FOR EACH ROW
WHEN (OLD.hostname <> NEW.hostname OR OLD.ssh_keys <> NEW.ssh_keys OR OLD.reprovisions <> NEW.reprovisions)
EXECUTE FUNCTION log_node();

CREATE FUNCTION log_contents() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO changes (token_key) SELECT t.token_key FROM (SELECT DISTINCT system_id FROM touched) c
    JOIN node_keys k ON k.system_id = c.system_id JOIN tokens t ON t.id = k.token_id;
    RETURN NULL;
END $$;
CREATE TRIGGER contents_inserted AFTER INSERT ON contents
REFERENCING NEW TABLE AS touched FOR EACH STATEMENT EXECUTE FUNCTION log_contents();
CREATE TRIGGER contents_updated AFTER UPDATE ON contents
REFERENCING NEW TABLE AS touched FOR EACH STATEMENT EXECUTE FUNCTION log_contents();
CREATE TRIGGER contents_deleted AFTER DELETE ON contents
REFERENCING OLD TABLE AS touched FOR EACH STATEMENT EXECUTE FUNCTION log_contents();

-- Up to where the log was swept: whoever had not read so far forgets everything.
INSERT INTO meta (name, value) VALUES ('changes-swept', '0');

-- Programs that know this migration and none after it may serve this database still, until a later
-- one takes away what they need and raises this.
INSERT INTO meta (name, value) VALUES ('serves-since', '20261126000008');
