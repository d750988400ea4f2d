-- Every transaction under way now with a number of its own, as 64-bit numbers: those of sessions (seen by pg_monitor) and
-- prepared ones. A snapshot's list alone doesn't hold those that began after the newest commit.
with newest as (
    select pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint as xid
), running as (
    select backend_xid::text::bigint as xid from pg_catalog.pg_stat_activity where backend_xid is not null
     union
    select transaction::text::bigint from pg_catalog.pg_prepared_xacts
)
-- The 32 bits that are shown, put beside the newest number, from which they are less than 2^31 away.
select coalesce(
           pg_catalog.array_agg((newest.xid + (running.xid - newest.xid %% 4294967296 + 6442450944) %% 4294967296 - 2147483648)::text),
           '{}') as xids
  from running, newest;
