-- For each table named as in the site's profile (schema.table, quoted like in SQL) whether it exists and this role may
-- read it. Asked in the tenant's database.
select name,
       c.oid is not null as found,
       coalesce(pg_catalog.has_schema_privilege(n.oid, 'USAGE') and pg_catalog.has_table_privilege(c.oid, 'SELECT'), false)
           as granted,
       pg_catalog.format('SELECT on %%s in database %%I', name, pg_catalog.current_database()) as what
  from pg_catalog.unnest(%(tables)s::text[]) with ordinality as asked (name, place)
 cross join lateral pg_catalog.parse_ident(name) as part
  left join pg_catalog.pg_namespace n on n.nspname = part[1]
  left join pg_catalog.pg_class c
    on c.relnamespace = n.oid and c.relname = part[2] and c.relkind in ('r', 'p', 'm', 'v', 'f')
 order by place;
