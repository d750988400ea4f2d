-- A role's sessions by address, and how many of them have done nothing in an open transaction for so long; with each row, how
-- many sessions the server has of all roles.
select coalesce(pg_catalog.host(a.client_addr), 'local') as address,
       count(*) as sessions,
       count(*) filter (where a.state = 'active') as active,
       count(*) filter (where a.state like 'idle in transaction%%') as in_transaction,
       count(*) filter (where a.state = 'idle') as idle,
       count(*) filter (where a.state like 'idle in transaction%%'
           and a.state_change < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => %(seconds)s)) as stuck,
       (select count(*) from pg_catalog.pg_stat_activity o
         where coalesce(o.backend_type, 'client backend') = 'client backend' and o.datname is not null
           and o.pid <> pg_catalog.pg_backend_pid()) as everybody
  from pg_catalog.pg_stat_activity a
 where coalesce(a.backend_type, 'client backend') = 'client backend' and a.datname is not null and a.usename = %(role)s
 group by 1
 order by count(*) desc, 1;
