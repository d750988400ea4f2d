-- Tables that hold rows of their own, as the server quotes them. Of an extension's tables only those whose rows are
-- configuration, which a dump carries; a materialised view is filled anew from its tables.
select pg_catalog.format('%%I.%%I', n.nspname, c.relname) as name
  from pg_catalog.pg_class c
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
   and c.relkind = 'r'
   and (not exists (select from pg_catalog.pg_depend d
                     where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
        or exists (select from pg_catalog.pg_extension e where c.oid = any(e.extconfig)))
 order by 1;
