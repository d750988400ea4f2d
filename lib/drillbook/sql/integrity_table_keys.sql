-- How large a table is now (with partitions and TOAST), how many rows it is thought to have, and the columns by which ranges
-- of it can be read: the first column of each valid, whole, unique B-tree index in its type's own order, the primary key
-- first. distinct_values and correlation are those of the planner, bounds split the rows into equal parts; null without ANALYZE.
with recursive tree as (
    select %(table)s::text::pg_catalog.regclass::oid as oid
     union
    select inhrelid from tree join pg_catalog.pg_inherits on inhparent = oid
), measured as (
    select sum(pg_catalog.pg_table_size(c.oid)) as bytes,
           coalesce(sum(greatest(c.reltuples, 0)) filter (where c.relkind <> 'p'), 0)::bigint as rows
      from tree
      join pg_catalog.pg_class c using (oid)
), key as (
    select distinct on (a.attnum)
           a.attname,
           i.indisprimary,
           pg_catalog.quote_ident(a.attname) as column_name,
           pg_catalog.format_type(a.atttypid, null) as type,
           a.atttypid in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype) as is_integer,
           i.indnkeyatts = 1 as alone,
           t.relkind = 'p' as partitioned,
           t.relname,
           n.nspname
      from pg_catalog.pg_index i
      join pg_catalog.pg_class x on x.oid = i.indexrelid
      join pg_catalog.pg_am m on m.oid = x.relam and m.amname = 'btree'
      join pg_catalog.pg_class t on t.oid = i.indrelid
      join pg_catalog.pg_namespace n on n.oid = t.relnamespace
      join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
      join pg_catalog.pg_opclass o on o.oid = i.indclass[0] and o.opcdefault
     where i.indrelid = %(table)s::text::pg_catalog.regclass
       and i.indisunique and i.indisvalid and i.indpred is null
       and i.indcollation[0] = a.attcollation
     order by a.attnum, i.indisprimary desc, i.indnkeyatts
)
select measured.bytes, measured.rows, key.column_name, key.type, key.is_integer, key.alone,
       s.correlation, s.n_distinct as distinct_values, s.histogram_bounds::text::text[] as bounds
  from measured
  left join key on true
  left join pg_catalog.pg_stats s
         on s.schemaname = key.nspname and s.tablename = key.relname and s.attname = key.attname
        and s.inherited = key.partitioned
 order by key.indisprimary desc nulls last, key.alone desc nulls last, key.column_name;
