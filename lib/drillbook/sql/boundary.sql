-- Which of a run's markers and scratch rows are here. On a copy: the one before the target must be, the one after not.
-- The transaction ids are those of the newest marker of each name: an earlier 'before' proves nothing of the newest.
select exists (select from drillbook.marker where run_id = %(run_id)s and name = 'before') as before,
       exists (select from drillbook.marker where run_id = %(run_id)s and name = 'after') as after,
       (select xid::text::bigint from drillbook.marker where run_id = %(run_id)s and name = 'before' order by id desc limit 1)
           as before_xid,
       (select xid::text::bigint from drillbook.marker where run_id = %(run_id)s and name = 'after' order by id desc limit 1)
           as after_xid,
       (select count(*) from drillbook.scratch where run_id = %(run_id)s) as scratch_rows;
