-- The runs that wrote markers, oldest first, each with its first marker's time.
select run_id, pg_catalog.min(written_at) as written_at
  from drillbook.marker
 group by run_id
 order by 2, 1;
