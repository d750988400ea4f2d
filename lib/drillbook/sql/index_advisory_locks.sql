-- The advisory locks of other sessions in this database, by their 64-bit keys.
select l.pid, (l.classid::bigint << 32) | l.objid::bigint as key, l.objsubid = 1 as whole,
       coalesce(a.usename, '')::text as role, coalesce(a.application_name, '') as application
  from pg_catalog.pg_locks l
  left join pg_catalog.pg_stat_activity a on a.pid = l.pid
 where l.locktype = 'advisory' and l.pid <> pg_catalog.pg_backend_pid()
   and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = pg_catalog.current_database())
 order by l.pid, key;
