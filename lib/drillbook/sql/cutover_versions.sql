-- The extensions of the current database, with their schema and version.
select e.extname::text as name, n.nspname::text as schema, e.extversion as version
  from pg_catalog.pg_extension e join pg_catalog.pg_namespace n on n.oid = e.extnamespace
 where e.extname <> 'plpgsql'
 order by 1;
