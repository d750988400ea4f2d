-- Where a role's unqualified names are looked for in this database, as far as it was set for the role: here first, else everywhere.
select pg_catalog.substr(item, 13) as path
  from pg_catalog.pg_db_role_setting s
  join pg_catalog.pg_roles r on r.oid = s.setrole
 cross join lateral pg_catalog.unnest(s.setconfig) as item
 where r.rolname = %(role)s and item like 'search_path=%%'
   and s.setdatabase in (0, (select d.oid from pg_catalog.pg_database d where d.datname = pg_catalog.current_database()))
 order by s.setdatabase desc
 limit 1;
