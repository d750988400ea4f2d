-- What there is under an index's name: in its table's schema, and (wanted) on the empty copy that was made for comparison.
-- definition is what follows "CREATE [UNIQUE] INDEX name ON table"; own is the backend that builds it now, if one does.
select n.oid = pg_catalog.pg_my_temp_schema() as wanted,
       c.oid::bigint as oid,
       c.relkind::text as kind,
       coalesce(tn.nspname, '') as table_schema, coalesce(t.relname, '') as table_name,
       coalesce(i.indisvalid and i.indisready and i.indislive, false) as valid,
       coalesce(i.indislive, false) as live,
       coalesce(case when i.indisunique then 'UNIQUE ' else '' end
           || pg_catalog.replace(pg_catalog.replace(d.text, d.prefix, ''), d.prefix_only, 'ONLY '), '') as definition,
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
      select pg_catalog.pg_get_indexdef(c.oid) as text, place.head || place.relation as prefix,
             place.head || 'ONLY ' || place.relation as prefix_only
        from (select pg_catalog.format('CREATE %%sINDEX %%I ON ', case when i.indisunique then 'UNIQUE ' else '' end, c.relname) as head,
                     pg_catalog.format('%%I.%%I ', case when tn.oid = pg_catalog.pg_my_temp_schema() then 'pg_temp' else coalesce(tn.nspname, '') end,
                                       coalesce(t.relname, '')) as relation) place
  ) d on i.indexrelid is not null
 where c.relname = %(name)s
   and (n.nspname = %(schema)s or n.oid = pg_catalog.pg_my_temp_schema());
