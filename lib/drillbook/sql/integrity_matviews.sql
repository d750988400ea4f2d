-- Materialised views, and whether each has been filled.
select pg_catalog.format('%%I.%%I', n.nspname, c.relname) as name, c.relispopulated as filled
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'm' and c.relpersistence <> 't'
 order by 1;
