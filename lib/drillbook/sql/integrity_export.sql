-- The snapshot of this one statement: under which name other transactions can take it over, what it sees, where the WAL is
-- now, and who was under way: those that it doesn't see, and those that began after its newest commit, as 64-bit numbers.
-- Each holds a lock on its number until after it is seen to have ended, prepared ones included, and every role may see the
-- locks (of pg_stat_activity only pg_monitor sees the numbers).
with newest as (
    select pg_catalog.pg_current_snapshot() as sees,
           pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint as xid
), running as (
    select xip::text as xid from newest, pg_catalog.pg_snapshot_xip(newest.sees) as xip
     union
    -- The 32 bits that are shown, put beside the newest number, from which they are less than 2^31 away.
    select (newest.xid + (locked.xid - newest.xid %% 4294967296 + 6442450944) %% 4294967296 - 2147483648)::text
      from newest,
           (select transactionid::text::bigint as xid from pg_catalog.pg_locks where locktype = 'transactionid' and granted) as locked
)
select pg_catalog.pg_export_snapshot() as id,
       (select sees::text from newest) as sees,
       (select coalesce(pg_catalog.array_agg(xid), '{}') from running) as under_way,
       pg_catalog.pg_current_wal_insert_lsn()::text as lsn;
