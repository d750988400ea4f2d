-- What PostgreSQL itself says of an application's role and its database: null where there is none of that name. A superuser has no limit.
select pg_catalog.current_setting('max_connections')::int
           - pg_catalog.current_setting('superuser_reserved_connections')::int as slots,
       (select count(*) from pg_catalog.pg_stat_activity a where a.backend_type = 'client backend') as sessions,
       r.rolcanlogin as may_log_in,
       case when r.rolsuper then -1 else r.rolconnlimit end as role_limit,
       r.rolvaliduntil < pg_catalog.now() as expired,
       (select count(*) from pg_catalog.pg_stat_activity a
         where a.usesysid = r.oid and a.backend_type = 'client backend') as role_sessions,
       d.datallowconn as allows_connections,
       d.datconnlimit as database_limit,
       (select count(*) from pg_catalog.pg_stat_activity a
         where a.datid = d.oid and a.backend_type = 'client backend') as database_sessions,
       pg_catalog.has_database_privilege(r.oid, d.oid, 'CONNECT') as may_connect,
       (select pg_catalog.array_agg(o.datname::text order by o.datname) from pg_catalog.pg_database o
         where not o.datistemplate) as databases
  from (select 1) one
  left join pg_catalog.pg_roles r on r.rolname = %(role)s
  left join pg_catalog.pg_database d on d.datname = %(database)s;
