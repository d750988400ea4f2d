-- Transactions of this database that are open, each with its virtual transaction id: seen again later, it is as old as that.
-- age is null where this role may not see how old another role's transaction is. A vacuum holds up no index.
select l.pid, l.virtualtransaction as id, coalesce(a.usename, '')::text as role,
       coalesce(a.application_name, '') as application,
       extract(epoch from pg_catalog.clock_timestamp() - a.xact_start)::float8 as age
  from pg_catalog.pg_locks l
  join pg_catalog.pg_stat_activity a on a.pid = l.pid
 where l.locktype = 'virtualxid' and l.granted and l.pid <> pg_catalog.pg_backend_pid()
   and l.virtualtransaction = l.virtualxid
   and a.datname = pg_catalog.current_database()
   and coalesce(a.backend_type, 'client backend') <> 'autovacuum worker' and a.usesysid is not null
union all
select null, p.gid, p.owner::text, 'prepared transaction',
       extract(epoch from pg_catalog.clock_timestamp() - p.prepared)::float8
  from pg_catalog.pg_prepared_xacts p
 where p.database = pg_catalog.current_database()
 order by 1, 2;
