-- Of the transactions that were under way at a snapshot: how many have committed since. Such a one may have
-- written its commit record before that of one that the snapshot sees (it becomes visible a moment after the record).
select count(*) as committed
  from pg_catalog.unnest(%(xids)s::text[]) as xid
 where pg_catalog.pg_xact_status(xid::pg_catalog.xid8) = 'committed';
