DROP TABLE node_labels;
DROP TABLE nodes;
DROP TABLE users;
DROP TABLE projects;
DROP TABLE meta;
