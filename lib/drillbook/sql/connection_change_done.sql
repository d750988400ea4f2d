-- Notes that what a run has changed stays.
update drillbook.connection_change
   set done_at = coalesce(done_at, pg_catalog.clock_timestamp())
 where run_id = %(run_id)s;
