-- Writes a marker row; its transaction id is the boundary that recovery is tested against. The commit comes after
-- written_at, so a recovery to written_at does not bring it back; its record comes after lsn in the WAL.
insert into drillbook.marker (run_id, name)
values (%(run_id)s, %(name)s)
returning name, xid::text::bigint as xid, written_at, pg_catalog.pg_current_wal_insert_lsn()::text as lsn;
