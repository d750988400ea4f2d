-- Notes that a change was made.
update drillbook.index_change
   set done_at = coalesce(done_at, pg_catalog.clock_timestamp())
 where run_id = %(run_id)s and database = %(database)s and action = %(action)s and schema_name = %(schema)s and index_name = %(index)s;
