-- The indexes of these names (as SQL writes them), and why one of them may be more than an index.
select given.name as given, n.nspname::text as schema, c.relname::text as name, tn.nspname::text as table_schema,
       t.relname::text as table_name, pg_catalog.pg_get_indexdef(c.oid) as statement,
       i.indisunique as is_unique, i.indisreplident as is_identity, i.indisclustered as is_clustered,
       c.relkind = 'I' or c.relispartition as is_partitioned,
       (select k.conname::text from pg_catalog.pg_constraint k where k.conindid = c.oid limit 1) as of_constraint
  from pg_catalog.unnest(%(names)s::text[]) as given (name)
  join pg_catalog.pg_class c on c.oid = pg_catalog.to_regclass(given.name)
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  join pg_catalog.pg_index i on i.indexrelid = c.oid
  join pg_catalog.pg_class t on t.oid = i.indrelid
  join pg_catalog.pg_namespace tn on tn.oid = t.relnamespace
 order by given.name;
