-- SQLite's file is ordered by this; here a replica of the version before looks for the digest alone.
SELECT 1;
