-- A setting that a database gives to its new sessions (ALTER DATABASE … SET), for every role; no row: it is not set.
select pg_catalog.split_part(setting, '=', 2) as value
  from pg_catalog.pg_db_role_setting s
  join pg_catalog.pg_database d on d.oid = s.setdatabase
 cross join pg_catalog.unnest(s.setconfig) as setting
 where d.datname = %(database)s and s.setrole = 0 and pg_catalog.split_part(setting, '=', 1) = %(name)s;
