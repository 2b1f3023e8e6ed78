DROP TABLE node_keys;
DROP TABLE tokens;
DROP TABLE consumers;
