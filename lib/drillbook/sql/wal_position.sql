-- Where the WAL is now, without using a transaction id. next_xid: one more than the newest transaction id that has ended,
-- so it says whether any has ended since a given one; a transaction under way does not show in it.
select pg_catalog.pg_current_wal_lsn()::text as lsn,
       pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) as current_wal,
       pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint as next_xid,
       pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text::bigint as oldest_running_xid,
       pg_catalog.clock_timestamp() as clock,
       -- The newest checkpoint: where its redo begins, and the transaction id that was next then (without its epoch).
       c.redo_lsn::text as checkpoint_lsn,
       pg_catalog.split_part(c.next_xid, ':', 2)::bigint as checkpoint_next_xid
  from pg_catalog.pg_control_checkpoint() c;
