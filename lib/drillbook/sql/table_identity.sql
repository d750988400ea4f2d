-- What tells the rows of a table apart: its columns in order, those of its primary key (null: it has none), and how many
-- rows it is thought to have, with its partitions.
with recursive tree as (
    select %(table)s::text::pg_catalog.regclass::oid as oid
     union
    select inhrelid from tree join pg_catalog.pg_inherits on inhparent = oid
)
select (select pg_catalog.array_agg(pg_catalog.quote_ident(a.attname) order by a.attnum)
          from pg_catalog.pg_attribute a
         where a.attrelid = %(table)s::text::pg_catalog.regclass and a.attnum > 0 and not a.attisdropped) as columns,
       (select pg_catalog.array_agg(pg_catalog.quote_ident(a.attname) order by k.place)
          from pg_catalog.pg_index i
          cross join lateral pg_catalog.unnest(i.indkey::int[]) with ordinality k(attnum, place)
          join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
         where i.indrelid = %(table)s::text::pg_catalog.regclass and i.indisprimary) as key,
       (select coalesce(sum(greatest(c.reltuples, 0)) filter (where c.relkind <> 'p'), 0)::bigint
          from tree join pg_catalog.pg_class c using (oid)) as rows;
