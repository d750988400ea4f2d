-- The subscriptions of all databases. An enabled one in a copy would consume the source's slot at its publisher. The
-- connection string is not read: it holds a password.
select d.datname::text as database, s.subname::text as name, s.subenabled as enabled, coalesce(s.subslotname::text, '') as slot
  from pg_catalog.pg_subscription s
  join pg_catalog.pg_database d on d.oid = s.subdbid
 order by 1, 2;
