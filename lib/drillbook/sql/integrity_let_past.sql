-- Who waits for one of these sessions of ours, and for what. Every role may ask: waiting sessions and their blockers are
-- shown to all, of pg_stat_activity the role's name as well. A wait for another transaction's snapshot (CREATE INDEX
-- CONCURRENTLY) is a wait for its virtual transaction, and is seen like one for a table.
select ours.pid as ours,
       'role ' || coalesce(activity.usename::text, 'unknown') as who,
       waiting.mode
  from (select pid, pg_catalog.min(mode) as mode from pg_catalog.pg_locks where not granted group by pid) as waiting
 cross join lateral (
           select distinct pid from pg_catalog.unnest(pg_catalog.pg_blocking_pids(waiting.pid)) as pid
       ) as ours
  left join pg_catalog.pg_stat_activity as activity on activity.pid = waiting.pid
 where ours.pid = any(%(pids)s::int[]) and waiting.pid <> all(%(pids)s::int[])
union all
-- On a replica it may be replay itself, which has no blockers that could be asked for: it takes ACCESS EXCLUSIVE only, which
-- any lock on the same table is in the way of.
select distinct ours.pid, 'replay', waiting.mode
  from pg_catalog.pg_locks as waiting
  join pg_catalog.pg_locks as ours using (locktype, database, relation)
 where not waiting.granted and waiting.mode = 'AccessExclusiveLock' and ours.granted
   and pg_catalog.pg_is_in_recovery()
   and ours.pid = any(%(pids)s::int[]) and waiting.pid <> all(%(pids)s::int[]);
