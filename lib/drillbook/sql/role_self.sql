-- Who this role is and how much more it may than a drill needs.
select r.rolname::text as role,
       r.rolsuper as superuser,
       r.rolcreaterole as createrole,
       r.rolcreatedb as createdb,
       r.rolreplication as replication,
       r.rolbypassrls as bypassrls,
       r.rolconnlimit as connection_limit,
       r.rolvaliduntil as valid_until,
       pg_catalog.pg_has_role('pg_monitor', 'USAGE') as monitor,
       pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE') as read_all_stats,
       pg_catalog.pg_has_role('pg_read_all_settings', 'USAGE') as read_all_settings,
       pg_catalog.pg_has_role('pg_read_all_data', 'USAGE') as read_all_data,
       pg_catalog.pg_has_role('pg_write_all_data', 'USAGE') as write_all_data
  from pg_catalog.pg_roles r
 where r.rolname = current_user;
