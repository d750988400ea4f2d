-- What runs have changed of indexes and no other has undone yet, the newest run first. Nothing where no run has ever changed one.
select run_id, undoes, database, action, schema_name, table_name, index_name, statement, noted_at, done_at, undone_by,
       pg_catalog.max(noted_at) over (partition by run_id) as newest
  from drillbook.index_change
 where (%(database)s = '' or database = %(database)s) and (%(run_id)s = '' or run_id = %(run_id)s)
 order by newest desc, run_id, noted_at, index_name;
