-- Sessions that have held their connection in one transaction for longest, the text of their query left out: it may hold
-- a row. The column is pid; backend_pid is no column of pg_stat_activity.
select a.pid,
       coalesce(a.usename::text, '') as role,
       coalesce(a.datname::text, '') as database,
       coalesce(a.state, '') as state,
       coalesce(a.wait_event_type, '') as waits_for,
       extract(epoch from pg_catalog.clock_timestamp() - a.xact_start)::float8 as transaction_seconds,
       extract(epoch from pg_catalog.clock_timestamp() - a.state_change)::float8 as state_seconds
  from pg_catalog.pg_stat_activity a
 where coalesce(a.backend_type, 'client backend') = 'client backend' and a.datname is not null and a.xact_start is not null
   and a.pid <> pg_catalog.pg_backend_pid()
 order by a.xact_start
 limit 10;
