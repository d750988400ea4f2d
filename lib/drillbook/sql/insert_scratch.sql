-- The scratch rows of a run; repeating it adds none.
insert into drillbook.scratch (run_id, n, payload)
select %(run_id)s::text, n, pg_catalog.md5(%(run_id)s::text || ' ' || n)
  from pg_catalog.generate_series(1, %(rows)s::int) n
on conflict do nothing;
