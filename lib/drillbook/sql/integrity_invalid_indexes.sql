-- Indexes that PostgreSQL does not use, or does not maintain: what a failed CREATE INDEX CONCURRENTLY leaves.
select pg_catalog.format('%%I.%%I', n.nspname, c.relname) as name,
       case when not i.indisvalid then 'not valid' else 'not ready' end as state
  from pg_catalog.pg_index i
  join pg_catalog.pg_class c on c.oid = i.indexrelid
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where not (i.indisvalid and i.indisready) and c.relkind = 'i' and c.relpersistence <> 't'
 order by 1;
