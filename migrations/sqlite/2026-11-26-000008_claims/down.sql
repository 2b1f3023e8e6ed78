DROP INDEX node_keys_by_deadline;
DROP TABLE claims;
