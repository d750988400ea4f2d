-- Indexes that this check does not look into, by what keeps them out: another access method, or not valid.
select case when i.indisvalid and i.indisready then a.amname::text else 'not valid' end as why, count(*) as indexes
  from pg_catalog.pg_class c
  join pg_catalog.pg_am a on a.oid = c.relam
  join pg_catalog.pg_index i on i.indexrelid = c.oid
 where c.relpersistence <> 't' and c.relkind = 'i'
   and not (a.amname = 'btree' and i.indisvalid and i.indisready)
 group by 1 order by 1;
