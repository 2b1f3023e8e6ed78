-- What makes a repeat is looked for by its time first: what is reported together is indexed together.
UPDATE events SET repeat_of = unhex(printf('%016X', coalesce(node_time, 0)) || hex(repeat_of))
WHERE repeat_of IS NOT NULL AND length(repeat_of) = 32;
