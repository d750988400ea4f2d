-- Foreign keys whose columns no valid, whole index begins with: each delete or key change of a referenced row reads the
-- whole table. Those of partitions are their parent's.
select pg_catalog.format('%%I.%%I', n.nspname, t.relname) as "table", k.conname as name,
       (select pg_catalog.array_agg(a.attname::text order by p.place)
          from pg_catalog.unnest(k.conkey) with ordinality p (number, place)
          join pg_catalog.pg_attribute a on a.attrelid = k.conrelid and a.attnum = p.number) as columns
  from pg_catalog.pg_constraint k
  join pg_catalog.pg_class t on t.oid = k.conrelid
  join pg_catalog.pg_namespace n on n.oid = t.relnamespace
 where k.contype = 'f' and k.conparentid = 0
   and not exists (
       select from pg_catalog.pg_index i
        where i.indrelid = k.conrelid and i.indisvalid and i.indpred is null and i.indnkeyatts >= pg_catalog.cardinality(k.conkey)
          -- The key's columns in any order, as the first ones of the index.
          and (select pg_catalog.bool_and(number = any (k.conkey)) and pg_catalog.count(distinct number) = pg_catalog.cardinality(k.conkey)
                 from pg_catalog.unnest(i.indkey::smallint[]) with ordinality p (number, place)
                where place <= pg_catalog.cardinality(k.conkey)))
 order by 1, 2
