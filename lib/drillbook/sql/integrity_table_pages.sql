-- The bytes of a table with its partitions and TOAST, as they were when each was last vacuumed or analysed: asked without
-- any lock. The name is as the site's profile writes it; 0 if there is no such table.
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
select coalesce(sum(c.relpages::bigint + coalesce(toast.relpages, 0)), 0)::bigint
           * pg_catalog.current_setting('block_size')::bigint as bytes
  from tree
  join pg_catalog.pg_class c using (oid)
  left join pg_catalog.pg_class toast on toast.oid = c.reltoastrelid;
