-- What tables of these names (as SQL writes them) there are, and how large. A name that is none is left out.
select given.name as given, n.nspname::text as schema, c.relname::text as name, c.relkind::text as kind,
       c.relpersistence::text as persistence, greatest(c.reltuples, 0)::float8 as rows,
       pg_catalog.pg_table_size(c.oid) as bytes, coalesce(t.spcname, '')::text as tablespace
  from pg_catalog.unnest(%(names)s::text[]) as given (name)
  join pg_catalog.pg_class c on c.oid = pg_catalog.to_regclass(given.name)
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  left join pg_catalog.pg_tablespace t on t.oid = c.reltablespace
 where c.relkind in ('r', 'p', 'm')
 order by given.name;
