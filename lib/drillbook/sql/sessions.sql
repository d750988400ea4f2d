-- Client sessions but our own, counted. Without pg_read_all_stats the state of other roles' sessions reads as '', and so
-- does what kind of process they are: then whatever has a database and a role counts.
select coalesce(datname::text, '') as database,
       coalesce(usename::text, '') as role,
       coalesce(application_name, '') as application,
       coalesce(state, '') as state,
       coalesce(pg_catalog.host(client_addr), '') as address,
       count(*) as sessions,
       max(extract(epoch from pg_catalog.clock_timestamp() - xact_start))::float8 as oldest_transaction_seconds
  from pg_catalog.pg_stat_activity
 where coalesce(backend_type, 'client backend') = 'client backend' and datname is not null and usename is not null
   and pid <> pg_catalog.pg_backend_pid()
   and (%(database)s::text = '' or datname = %(database)s::text)
 group by 1, 2, 3, 4, 5
 order by 1, 2, 3, 4, 5;
