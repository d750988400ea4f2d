-- Tables for a load of look-ups: ordinary ones with rows and a primary key of one column, which the role may read, the largest first.
select n.nspname as schema_name, t.relname as table_name, a.attname as key_column
  from pg_catalog.pg_class t
  join pg_catalog.pg_namespace n on n.oid = t.relnamespace
  join pg_catalog.pg_index i on i.indrelid = t.oid and i.indisprimary and i.indnkeyatts = 1
  join pg_catalog.pg_attribute a on a.attrelid = t.oid and a.attnum = i.indkey[0]
 where t.relkind = 'r' and t.relpersistence = 'p'
   and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
   and pg_catalog.has_schema_privilege(%(role)s, n.oid, 'USAGE')
   and pg_catalog.has_table_privilege(%(role)s, t.oid, 'SELECT')
   and pg_catalog.pg_relation_size(t.oid) > 0
 order by pg_catalog.pg_relation_size(t.oid) desc, 1, 2
 limit 5
