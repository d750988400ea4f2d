-- Every role that may log in: its limit (-1: none), and its sessions by state. Superusers have no limit whatever is set.
select r.rolname::text as role,
       r.rolsuper as superuser,
       case when r.rolsuper then -1 else r.rolconnlimit end as connection_limit,
       count(a.pid) as sessions,
       count(a.pid) filter (where a.state = 'active') as active,
       count(a.pid) filter (where a.state like 'idle in transaction%%') as in_transaction,
       count(a.pid) filter (where a.state = 'idle') as idle
  from pg_catalog.pg_roles r
  left join pg_catalog.pg_stat_activity a
    on a.usesysid = r.oid and coalesce(a.backend_type, 'client backend') = 'client backend' and a.datname is not null
   and a.pid <> pg_catalog.pg_backend_pid()
 where r.rolcanlogin
 group by r.rolname, r.rolsuper, r.rolconnlimit
 order by count(a.pid) desc, r.rolname;
