-- Extensions, and whether this server has files for the very version that is installed.
select e.extname::text as name, e.extversion as version,
       exists (select from pg_catalog.pg_available_extension_versions v
                where v.name = e.extname and v.version = e.extversion) as here,
       (select coalesce(pg_catalog.string_agg(v.version, ', ' order by v.version), '')
          from pg_catalog.pg_available_extension_versions v where v.name = e.extname) as on_this_server
  from pg_catalog.pg_extension e
 order by 1;
