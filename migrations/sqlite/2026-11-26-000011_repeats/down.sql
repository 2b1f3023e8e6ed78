UPDATE events SET repeat_of = substr(repeat_of, 9)
WHERE repeat_of IS NOT NULL AND length(repeat_of) = 40;
