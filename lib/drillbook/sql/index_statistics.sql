-- Size of every table of these names (schema.table) and of each of its indexes, and how often that was used, as counted here.
select pg_catalog.format('%%s.%%s', n.nspname, t.relname) as "table", pg_catalog.pg_table_size(t.oid) as table_bytes,
       coalesce(i.relname, '')::text as "index", coalesce(pg_catalog.pg_relation_size(i.oid), 0) as index_bytes,
       coalesce(s.idx_scan, 0) as scans, coalesce(x.indisvalid and x.indisready and x.indislive, false) as valid
  from pg_catalog.pg_class t
  join pg_catalog.pg_namespace n on n.oid = t.relnamespace
  left join pg_catalog.pg_index x on x.indrelid = t.oid
  left join pg_catalog.pg_class i on i.oid = x.indexrelid
  left join pg_catalog.pg_stat_user_indexes s on s.indexrelid = i.oid
 where pg_catalog.format('%%s.%%s', n.nspname, t.relname) = any(%(tables)s) and t.relkind in ('r', 'p', 'm')
 order by 1, 3;
