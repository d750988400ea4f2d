-- The databases of these names that are there, with what their comment says. Readable by every role.
select d.datname::text as name, d.oid::bigint as oid, d.datallowconn as allows_connections,
       pg_catalog.shobj_description(d.oid, 'pg_database') as comment
  from pg_catalog.pg_database d
 where d.datname = any(%(names)s)
 order by d.datname;
