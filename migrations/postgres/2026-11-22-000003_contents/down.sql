DROP TABLE contents;
DROP TABLE blobs;
