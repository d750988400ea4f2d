-- How often each index of this database was used on this instance, and since when that is counted. Never reset: counted at
-- least since the server started.
select n.nspname as schema, c.relname as name, coalesce(s.idx_scan, 0) as scans,
       coalesce(d.stats_reset, pg_catalog.pg_postmaster_start_time()) as since,
       pg_catalog.clock_timestamp() as now
  from pg_catalog.pg_index i
  join pg_catalog.pg_class c on c.oid = i.indexrelid
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  left join pg_catalog.pg_stat_all_indexes s on s.indexrelid = i.indexrelid
  join pg_catalog.pg_stat_database d on d.datname = pg_catalog.current_database()
 where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
