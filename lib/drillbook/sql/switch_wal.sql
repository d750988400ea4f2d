-- Ends the current WAL segment so that it is archived. What it must hold has to be committed before, in a transaction of
-- its own: a commit in this transaction would land in the next segment. lsn: just behind the segment's used part; if
-- nothing was written since the last switch, the start of the current segment, and nothing happened.
select pg_catalog.pg_switch_wal()::text as lsn, pg_catalog.clock_timestamp() as at;
