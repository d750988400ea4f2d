-- The snapshot of this one statement: under which name other transactions can take it over, what it sees, and where the WAL
-- is now: all that it sees stands before that.
select pg_catalog.pg_export_snapshot() as id,
       pg_catalog.pg_current_snapshot()::text as sees,
       pg_catalog.pg_current_wal_insert_lsn()::text as lsn;
