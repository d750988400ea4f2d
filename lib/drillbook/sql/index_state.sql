-- Every index of this database as the catalogue has it: its own definition and predicate, the table, and what it is worth
-- to know before another is made. An index of a partitioned table stands with the names and sizes of its partitions'.
with recursive parts as (
    select i.indexrelid as root, i.indexrelid as part from pg_catalog.pg_index i
    union all
    select parts.root, h.inhrelid from parts join pg_catalog.pg_inherits h on h.inhparent = parts.part
)
select i.indexrelid::bigint as oid, n.nspname as schema, c.relname as name, i.indrelid::bigint as table_oid,
       tn.nspname as table_schema, t.relname as table_name, am.amname as method,
       pg_catalog.pg_get_indexdef(i.indexrelid) as definition,
       coalesce(pg_catalog.pg_get_expr(i.indpred, i.indrelid), '') as predicate,
       i.indisunique as is_unique, i.indisvalid as is_valid,
       exists (select from pg_catalog.pg_constraint k where k.conindid = i.indexrelid and k.contype in ('p', 'u', 'x')) as is_constraint,
       (select pg_catalog.array_agg(pg_catalog.pg_get_indexdef(i.indexrelid, place, true)
               || ' ' || coalesce(i.indoption[place - 1], 0) || ' ' || coalesce(i.indclass[place - 1], 0)
               || ' ' || coalesce(i.indcollation[place - 1], 0) order by place)
          from pg_catalog.generate_series(1, i.indnkeyatts) place) as keys,
       coalesce((select pg_catalog.array_agg(pg_catalog.pg_get_indexdef(i.indexrelid, place, true) order by place)
          from pg_catalog.generate_series(i.indnkeyatts + 1, i.indnatts) place), '{}') as included,
       coalesce((select pg_catalog.array_agg(distinct a.attname::text) from pg_catalog.pg_attribute a
          join pg_catalog.pg_depend d on d.refobjid = a.attrelid and d.refobjsubid = a.attnum
         where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = i.indexrelid
           and d.refclassid = 'pg_catalog.pg_class'::regclass and a.attrelid = i.indrelid), '{}') as columns,
       (select pg_catalog.array_agg(p.relname::text order by p.relname) from parts
          join pg_catalog.pg_class p on p.oid = parts.part where parts.root = i.indexrelid) as names,
       (select sum(pg_catalog.pg_relation_size(parts.part)) from parts where parts.root = i.indexrelid)::bigint as bytes
  from pg_catalog.pg_index i
  join pg_catalog.pg_class c on c.oid = i.indexrelid
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  join pg_catalog.pg_class t on t.oid = i.indrelid
  join pg_catalog.pg_namespace tn on tn.oid = t.relnamespace
  join pg_catalog.pg_am am on am.oid = c.relam
 where n.nspname !~ '^pg_' and n.nspname <> 'information_schema' and not c.relispartition
 order by n.nspname, c.relname
