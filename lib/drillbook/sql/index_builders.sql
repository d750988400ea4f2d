-- Who works on an index now: the holder of its advisory lock, and any backend that builds the index of that name; how far it
-- is, what it waits for, and who is in its way. No statement is read: its text may hold values.
with builder as (
    select l.pid from pg_catalog.pg_locks l
     where l.locktype = 'advisory' and l.granted and l.objsubid = 1
       and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = pg_catalog.current_database())
       and l.classid = (%(high)s::bigint)::oid and l.objid = (%(low)s::bigint)::oid
    union
    select p.pid from pg_catalog.pg_stat_progress_create_index p
     where p.datname = pg_catalog.current_database()
       and p.index_relid = (select c.oid from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                             where c.relname = %(name)s and n.nspname = %(schema)s)
)
select b.pid,
       coalesce(p.phase, '') as phase,
       coalesce(p.blocks_done, 0) as blocks_done, coalesce(p.blocks_total, 0) as blocks_total,
       coalesce(p.tuples_done, 0) as tuples_done, coalesce(p.tuples_total, 0) as tuples_total,
       coalesce(p.lockers_done, 0) as lockers_done, coalesce(p.lockers_total, 0) as lockers_total,
       coalesce((select pg_catalog.string_agg(pg_catalog.format('pid %%s (role %%s, application %%s, %%s, transaction since %%s)',
                            h.pid, h.usename, pg_catalog.quote_literal(pg_catalog.left(h.application_name, 40)), h.state,
                            to_char(h.xact_start at time zone 'UTC', 'HH24:MI:SS "UTC"')), '; ' order by h.pid)
                   from pg_catalog.pg_stat_activity h
                  where h.pid = any (pg_catalog.pg_blocking_pids(b.pid))
                    -- This look and the canary are waited for as well, for the blink of an eye.
                    and h.pid <> pg_catalog.pg_backend_pid() and h.application_name <> 'drillbook_canary'), '') as held_by
  from builder b
  left join pg_catalog.pg_stat_progress_create_index p on p.pid = b.pid
 order by b.pid;
