-- Rows that were inserted, updated and deleted in a table and its partitions since its statistics began; '' if there is no
-- such table. Sessions report with a delay (a second as a rule): equal numbers support that nobody has written, and different
-- ones refute it. The name is as the site's profile writes it (schema.table, quoted like in SQL).
with recursive named as (
    select pg_catalog.parse_ident(%(name)s) as part
), tree as (
    select c.oid
      from named
      join pg_catalog.pg_namespace n on n.nspname = part[1]
      join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = part[2]
     union
    select inhrelid from tree join pg_catalog.pg_inherits on inhparent = oid
)
select coalesce(sum(pg_catalog.pg_stat_get_tuples_inserted(oid) + pg_catalog.pg_stat_get_tuples_updated(oid)
                    + pg_catalog.pg_stat_get_tuples_deleted(oid))::text, '') as writes
  from tree;
