-- A page of the nodes in a state is a range of this, in the order of the list.
DROP INDEX boots_by_state;
CREATE INDEX boots_by_state ON boots (state, system_id);

-- Nodes that have a deadline, which are few at a time: the late ones among them have failed.
CREATE INDEX boots_with_deadline ON boots (system_id) WHERE fails_at IS NOT NULL;
