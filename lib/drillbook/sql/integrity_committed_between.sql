-- How many transactions, in all databases, have committed between two snapshots: candidates are those that the first one
-- saw under way and those that began after it. A number that is too old to have a status counts as committed.
with snapshots as (
    select %(before)s::text::pg_catalog.pg_snapshot as before, %(after)s::text::pg_catalog.pg_snapshot as after
), candidate as (
    select xid from snapshots, pg_catalog.pg_snapshot_xip(before) as xid
     union
    select number::text::pg_catalog.xid8
      from snapshots,
           pg_catalog.generate_series(
               pg_catalog.pg_snapshot_xmax(before)::text::bigint, pg_catalog.pg_snapshot_xmax(after)::text::bigint - 1
           ) as number
)
select count(*) as committed
  from candidate, snapshots
 where pg_catalog.pg_visible_in_snapshot(xid, after)
   and coalesce(pg_catalog.pg_xact_status(xid), 'committed') = 'committed';
