-- Rows that were inserted, updated and deleted in a table and its partitions since its statistics began. Sessions report
-- with a delay (a second as a rule): equal numbers support that nobody has written, and different ones refute it.
with recursive tree as (
    select %(table)s::text::pg_catalog.regclass::oid as oid
     union
    select inhrelid from tree join pg_catalog.pg_inherits on inhparent = oid
)
select coalesce(sum(pg_catalog.pg_stat_get_tuples_inserted(oid) + pg_catalog.pg_stat_get_tuples_updated(oid)
                    + pg_catalog.pg_stat_get_tuples_deleted(oid)), 0)::text as writes
  from tree;
