-- What holds rows in this database, the largest first, without extensions' own: to choose tables to compare from, and to
-- know the schemas and who makes tables in them. A pending_events table is Spring Modulith's register of events.
select n.nspname::text as schema,
       pg_catalog.format('%%I.%%I', n.nspname, c.relname) as name,
       pg_catalog.pg_get_userbyid(c.relowner)::text as owner,
       pg_catalog.pg_table_size(c.oid) as size_bytes,
       -- An unlogged table is empty after a recovery; one with row security shows another role some of its rows only.
       c.relkind = 'r' and c.relpersistence = 'p' and not c.relispartition and not c.relrowsecurity
           and exists (select from pg_catalog.pg_index i where i.indrelid = c.oid and i.indisprimary) as comparable,
       c.relname = 'event_publication'
           and (select pg_catalog.count(*) = 2 from pg_catalog.pg_attribute a
                 where a.attrelid = c.oid and not a.attisdropped
                   and a.attname in ('completion_date', 'publication_date')) as pending_events
  from pg_catalog.pg_class c
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'p', 'm', 'v')
   and n.nspname <> 'information_schema'
   and n.nspname !~ '^pg_'
   and not exists (select from pg_catalog.pg_depend d
                    where d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = c.oid and d.deptype = 'e')
 order by size_bytes desc, name;
