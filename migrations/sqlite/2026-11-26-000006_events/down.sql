DROP TABLE node_nonces;
DROP TABLE event_files;
DROP TABLE events;
