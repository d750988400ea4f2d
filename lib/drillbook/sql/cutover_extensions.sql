-- Extensions in schemas that every new database has: they are made in their own version by their own owner before the dump
-- comes. creator is null where that owner may not make it.
select e.extname::text as name, n.nspname::text as schema, e.extversion as version,
       case when r.rolsuper or v.trusted then r.rolname::text end as creator
  from pg_catalog.pg_extension e
  join pg_catalog.pg_namespace n on n.oid = e.extnamespace
  join pg_catalog.pg_roles r on r.oid = e.extowner
  left join pg_catalog.pg_available_extension_versions v on v.name = e.extname and v.version = e.extversion
 where n.nspname in ('public', 'pg_catalog') and e.extname <> 'plpgsql'
 order by e.oid;
