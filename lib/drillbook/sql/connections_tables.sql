-- Which tables of this database are written to most since its counters were reset. pg_stat_activity knows no tables:
-- they are relname in pg_stat_user_tables.
select t.schemaname::text as schema,
       t.relname::text as table,
       t.n_tup_ins as inserted,
       t.n_tup_upd as updated,
       t.n_tup_del as deleted,
       d.stats_reset as since
  from pg_catalog.pg_stat_user_tables t
  left join pg_catalog.pg_stat_database d on d.datname = pg_catalog.current_database()
 order by t.n_tup_ins + t.n_tup_upd + t.n_tup_del desc, 1, 2
 limit 10;
