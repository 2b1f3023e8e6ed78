DELETE FROM meta WHERE name IN ('changes-swept', 'serves-since');
DROP TRIGGER contents_deleted;
DROP TRIGGER contents_updated;
DROP TRIGGER contents_inserted;
DROP TRIGGER nodes_changed;
DROP TRIGGER tokens_deleted;
DROP TRIGGER node_keys_deleted;
DROP TRIGGER node_keys_changed;
DROP TABLE changes;
