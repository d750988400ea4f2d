-- What a table and its partitions are made of, in the snapshot that asks: files and columns. Where an older snapshot and the
-- present differ in it, the table was truncated, rewritten or altered in between, and its old rows can't be read any more.
with recursive tree as (
    select %(table)s::text::pg_catalog.regclass::oid as oid
     union
    select inhrelid from tree join pg_catalog.pg_inherits on inhparent = oid
), part as (
    select c.oid, c.relfilenode, c.relkind, a.columns
      from tree
      join pg_catalog.pg_class c using (oid)
     cross join lateral (
               select pg_catalog.array_agg(row(attnum, attname, atttypid, atttypmod, attisdropped, atthasmissing)::text order by attnum) as columns
                 from pg_catalog.pg_attribute where attrelid = c.oid and attnum > 0
           ) as a
)
select coalesce(
           pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(
               pg_catalog.string_agg(part::text, ';' order by oid), pg_catalog.getdatabaseencoding())), 'hex'),
           '') as signature
  from part;
