-- What a dump of the current database leaves behind, each with its reason.
select 'rows of unlogged table ' || pg_catalog.format('%%I.%%I', n.nspname, c.relname) as what,
       'a recovery empties unlogged tables' as why
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'r' and c.relpersistence = 'u'
union all
select 'rows of materialised view ' || pg_catalog.format('%%I.%%I', n.nspname, c.relname), 'it is filled anew from the carried tables'
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'm' and c.relispopulated
union all
select 'subscription ' || pg_catalog.quote_ident(s.subname), 'it would connect to its publisher twice: make it anew after the cut'
  from pg_catalog.pg_subscription s join pg_catalog.pg_database d on d.oid = s.subdbid
 where d.datname = pg_catalog.current_database()
union all
select 'replication slot ' || slot_name, 'a slot stands on the old database: its consumer starts anew after the cut'
  from pg_catalog.pg_replication_slots where database = pg_catalog.current_database()
 order by 1;
