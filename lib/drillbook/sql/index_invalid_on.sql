-- The INVALID indexes of this database, and whether each is on one of these tables (schema.table).
select n.nspname::text as schema, c.relname::text as name,
       pg_catalog.format('%%s.%%s', tn.nspname, t.relname) as "table",
       pg_catalog.format('%%s.%%s', tn.nspname, t.relname) = any(%(tables)s) as concerned
  from pg_catalog.pg_index i
  join pg_catalog.pg_class c on c.oid = i.indexrelid
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  join pg_catalog.pg_class t on t.oid = i.indrelid
  join pg_catalog.pg_namespace tn on tn.oid = t.relnamespace
 where not (i.indisvalid and i.indisready and i.indislive) and c.relkind = 'i' and c.relpersistence <> 't'
 order by 1, 2;
