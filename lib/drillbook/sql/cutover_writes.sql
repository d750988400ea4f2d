-- Rows written to each table of the current database since its counters were reset. No row is read.
select pg_catalog.format('%%I.%%I', schemaname, relname) as name,
       n_tup_ins::bigint as inserted, n_tup_upd::bigint as updated, n_tup_del::bigint as deleted
  from pg_catalog.pg_stat_user_tables
 where n_tup_ins + n_tup_upd + n_tup_del > 0
 order by n_tup_ins + n_tup_upd + n_tup_del desc, 1;
