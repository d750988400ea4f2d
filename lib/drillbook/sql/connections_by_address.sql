-- Who holds a role's sessions: from which address, under which names, at most five of them. STRING_AGG takes no LIMIT:
-- the names are cut in an ordered array.
select r.rolname::text as role,
       coalesce(pg_catalog.host(a.client_addr), 'local') as address,
       coalesce(a.datname::text, '') as database,
       pg_catalog.array_to_string(
           (pg_catalog.array_agg(distinct coalesce(nullif(a.application_name, ''), 'unnamed')))[1:5], ', ') as applications,
       count(*) as sessions
  from pg_catalog.pg_stat_activity a
  join pg_catalog.pg_roles r on r.oid = a.usesysid
 where coalesce(a.backend_type, 'client backend') = 'client backend' and a.datname is not null and a.pid <> pg_catalog.pg_backend_pid()
 group by 1, 2, 3
 order by count(*) desc, 1, 2, 3;
