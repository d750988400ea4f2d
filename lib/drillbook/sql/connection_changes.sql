-- What runs have changed of pools and limits, the newest run first.
select run_id, undoes, database, kind, namespace, name, place, key, before, after, noted_at, done_at, undone_by,
       pg_catalog.max(noted_at) over (partition by run_id) as newest
  from drillbook.connection_change
 where (%(database)s = '' or database = %(database)s) and (%(run_id)s = '' or run_id = %(run_id)s)
 order by newest desc, run_id, noted_at, kind, key;
