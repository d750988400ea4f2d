-- A setting that roles bring into a database: their own in it, which comes first of all, or their own everywhere.
-- in_database says which; both come before what the database itself gives.
select pg_catalog.pg_get_userbyid(s.setrole)::text as role, s.setdatabase <> 0 as in_database,
       pg_catalog.substr(setting, pg_catalog.length(%(name)s) + 2) as value
  from pg_catalog.pg_db_role_setting s
 cross join pg_catalog.unnest(s.setconfig) as setting
 where s.setrole <> 0 and pg_catalog.starts_with(setting, %(name)s || '=')
   and s.setdatabase in (0, (select d.oid from pg_catalog.pg_database d where d.datname = %(database)s))
 order by 1, 2;
