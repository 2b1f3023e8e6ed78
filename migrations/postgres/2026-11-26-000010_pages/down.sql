DROP INDEX boots_with_deadline;
DROP INDEX boots_by_state;
CREATE INDEX boots_by_state ON boots (state, since);
