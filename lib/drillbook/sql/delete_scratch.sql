-- The simulated mistake: this run's scratch rows are deleted, no other row.
with gone as (
    delete from drillbook.scratch where run_id = %(run_id)s returning 1
)
select (select count(*) from gone) as rows,
       pg_catalog.pg_current_xact_id()::text::bigint as xid,
       pg_catalog.clock_timestamp() as at;
