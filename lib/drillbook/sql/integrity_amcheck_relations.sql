-- The relations that amcheck can look into, the user's first, each with the statement that checks it and its id as parameter:
-- heaps (tables, materialised views, TOAST) and valid B-tree indexes, the system's catalogues too. Temporary relations
-- belong to sessions that are gone. The server quotes the names; has_unique: bt_index_check knows checkunique (PostgreSQL 17).
with place as (
    select pg_catalog.quote_ident(n.nspname) as schema,
           exists (select from pg_catalog.pg_proc p
                    where p.pronamespace = n.oid and p.proname = 'bt_index_check' and p.pronargs = 3) as has_unique
      from pg_catalog.pg_extension e
      join pg_catalog.pg_namespace n on n.oid = e.extnamespace
     where e.extname = 'amcheck'
)
select pg_catalog.format('%%I.%%I', n.nspname, c.relname) as name,
       case when c.relkind in ('i', 'I') then 'index' else 'heap' end as kind,
       c.oid::bigint as id,
       -- An index is checked against its heap, which is read for it.
       c.relpages + coalesce(h.relpages, 0) as pages,
       case when c.relkind = 'i' and place.has_unique
            then pg_catalog.format('select null, %%s.bt_index_check(%%%%s::pg_catalog.oid, true, true)::text', place.schema)
            when c.relkind = 'i'
            then pg_catalog.format('select null, %%s.bt_index_check(%%%%s::pg_catalog.oid, true)::text', place.schema)
            else pg_catalog.format('select blkno, msg from %%s.verify_heapam(%%%%s::pg_catalog.oid, check_toast => true) limit 20',
                                   place.schema)
       end as statement
  from place, pg_catalog.pg_class c
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  join pg_catalog.pg_am a on a.oid = c.relam
  left join pg_catalog.pg_index i on i.indexrelid = c.oid
  left join pg_catalog.pg_class h on h.oid = i.indrelid
 where c.relpersistence <> 't'
   and (c.relkind in ('r', 'm', 't') and a.amname = 'heap'
        or c.relkind = 'i' and a.amname = 'btree' and i.indisvalid and i.indisready)
 order by c.oid < 16384, c.relkind = 'i', c.oid;
