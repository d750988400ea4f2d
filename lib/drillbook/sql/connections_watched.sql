-- A role's sessions: each one's address and state, for how long, and the transaction that it has open. Address and state are
-- null to a role without pg_read_all_stats; locks, and so open transactions, everybody may see.
select a.pid,
       pg_catalog.host(a.client_addr) as address,
       a.state,
       extract(epoch from pg_catalog.clock_timestamp() - a.state_change)::float8 as seconds,
       (select l.virtualtransaction from pg_catalog.pg_locks l
         where l.pid = a.pid and l.locktype = 'virtualxid' and l.granted and l.virtualxid = l.virtualtransaction
         limit 1) as transaction,
       (select count(*) from pg_catalog.pg_stat_activity o
         where coalesce(o.backend_type, 'client backend') = 'client backend' and o.datname is not null
           and o.pid <> pg_catalog.pg_backend_pid()) as everybody
  from pg_catalog.pg_stat_activity a
 where coalesce(a.backend_type, 'client backend') = 'client backend' and a.datname is not null and a.usename = %(role)s
 order by a.pid;
