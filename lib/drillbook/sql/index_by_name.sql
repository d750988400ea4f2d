-- What there is under an index's name: in its table's schema, and (wanted) on the empty copy that was made for comparison.
-- definition is what follows "CREATE [UNIQUE] INDEX name ON table"; builder is the backend that builds it now.
select n.oid = pg_catalog.pg_my_temp_schema() as wanted,
       c.oid::bigint as oid,
       c.relkind::text as kind,
       coalesce(tn.nspname, '') as table_schema, coalesce(t.relname, '') as table_name,
       coalesce(i.indisvalid and i.indisready and i.indislive, false) as valid,
       coalesce(i.indislive, false) as live,
       coalesce(case when i.indisunique then 'UNIQUE ' else '' end
           || case when pg_catalog.starts_with(d.rest, d.own) then pg_catalog.substr(d.rest, pg_catalog.length(d.own) + 1)
                   when pg_catalog.starts_with(d.rest, d.temporary) then pg_catalog.substr(d.rest, pg_catalog.length(d.temporary) + 1)
                   else d.rest end, '') as definition,
       coalesce(d.text, '') as statement,
       coalesce(pg_catalog.pg_relation_size(c.oid), 0) as bytes,
       (select p.pid from pg_catalog.pg_stat_progress_create_index p
         where p.index_relid = c.oid and p.datname = pg_catalog.current_database() limit 1) as builder
  from pg_catalog.pg_class c
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  left join pg_catalog.pg_index i on i.indexrelid = c.oid
  left join pg_catalog.pg_class t on t.oid = i.indrelid
  left join pg_catalog.pg_namespace tn on tn.oid = t.relnamespace
  left join lateral (
      -- Before PostgreSQL 15 the schema of a temporary table is called by its own name, pg_temp_3.
      select pg_catalog.pg_get_indexdef(c.oid) as text,
             pg_catalog.substr(pg_catalog.pg_get_indexdef(c.oid), 1 + pg_catalog.length(
                 pg_catalog.format('CREATE %%sINDEX %%I ON ', case when i.indisunique then 'UNIQUE ' else '' end, c.relname))) as rest,
             pg_catalog.format('%%I.%%I ', coalesce(tn.nspname, ''), coalesce(t.relname, '')) as own,
             pg_catalog.format('pg_temp.%%I ', coalesce(t.relname, '')) as temporary
       where i.indexrelid is not null
  ) d on true
 where c.relname = %(name)s
   and (n.nspname = %(schema)s or n.oid = pg_catalog.pg_my_temp_schema());
