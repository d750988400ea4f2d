-- The markers of a run, oldest first.
select name, xid::text::bigint as xid, written_at
  from drillbook.marker
 where run_id = %(run_id)s
 order by id;
