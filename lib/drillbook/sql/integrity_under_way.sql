-- Every transaction under way now with a number of its own, prepared ones included, as 64-bit numbers. Each holds a lock on
-- its number until after it is seen to have ended, and every role may see the locks (of pg_stat_activity only pg_monitor
-- sees the numbers). A snapshot's list alone doesn't hold those that began after the newest commit.
with newest as (
    select pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint as xid
), running as (
    select transactionid::text::bigint as xid from pg_catalog.pg_locks where locktype = 'transactionid' and granted
)
-- The 32 bits that are shown, put beside the newest number, from which they are less than 2^31 away.
select coalesce(
           pg_catalog.array_agg((newest.xid + (running.xid - newest.xid %% 4294967296 + 6442450944) %% 4294967296 - 2147483648)::text),
           '{}') as xids
  from running, newest;
