-- Who waits for one of these sessions of ours, and for what. Every role may ask: waiting sessions and their blockers are
-- shown to all, of pg_stat_activity the role's name as well. A wait for another transaction's snapshot (CREATE INDEX
-- CONCURRENTLY) is a wait for its virtual transaction, and is seen like one for a table.
select ours.pid as ours,
       coalesce(activity.usename::text, 'unknown') as role,
       waiting.mode
  from (select pid, pg_catalog.min(mode) as mode from pg_catalog.pg_locks where not granted group by pid) as waiting
 cross join lateral (
           select distinct pid from pg_catalog.unnest(pg_catalog.pg_blocking_pids(waiting.pid)) as pid
       ) as ours
  left join pg_catalog.pg_stat_activity as activity on activity.pid = waiting.pid
 where ours.pid = any(%(pids)s::int[]) and waiting.pid <> all(%(pids)s::int[]);
