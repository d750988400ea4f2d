-- Who may do what in this database: every privilege on relations, columns, schemas, functions, types, languages, foreign
-- servers and large objects, and the default privileges, by role names. An absent list is written out as the built-in
-- default that it means, and objects of the system and of extensions are left out while they are as they came.
with granted as (
    select 'pg_catalog.pg_class'::pg_catalog.regclass as class, c.oid, 0 as part,
           coalesce(c.relacl, pg_catalog.acldefault(case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner)) as acl,
           pg_catalog.format('%%I.%%I', n.nspname, c.relname) as name
      from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') and n.nspname !~ '^pg_(toast|temp)'
    union all
    select 'pg_catalog.pg_class'::pg_catalog.regclass, c.oid, a.attnum, a.attacl,
           pg_catalog.format('%%I.%%I.%%I', n.nspname, c.relname, a.attname)
      from pg_catalog.pg_attribute a
      join pg_catalog.pg_class c on c.oid = a.attrelid
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where a.attacl is not null and not a.attisdropped
    union all
    select 'pg_catalog.pg_namespace'::pg_catalog.regclass, n.oid, 0,
           coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner)), pg_catalog.format('schema %%I', n.nspname)
      from pg_catalog.pg_namespace n where n.nspname !~ '^pg_(toast|temp)'
    union all
    select 'pg_catalog.pg_proc'::pg_catalog.regclass, p.oid, 0,
           coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner)), p.oid::pg_catalog.regprocedure::text
      from pg_catalog.pg_proc p
     where p.proacl is not null or p.oid >= 16384
    union all
    select 'pg_catalog.pg_type'::pg_catalog.regclass, t.oid, 0, t.typacl, t.oid::pg_catalog.regtype::text
      from pg_catalog.pg_type t where t.typacl is not null
    union all
    select 'pg_catalog.pg_language'::pg_catalog.regclass, l.oid, 0, l.lanacl, pg_catalog.format('language %%I', l.lanname)
      from pg_catalog.pg_language l where l.lanacl is not null
    union all
    select 'pg_catalog.pg_foreign_server'::pg_catalog.regclass, s.oid, 0, s.srvacl, pg_catalog.format('foreign server %%I', s.srvname)
      from pg_catalog.pg_foreign_server s where s.srvacl is not null
    union all
    select 'pg_catalog.pg_foreign_data_wrapper'::pg_catalog.regclass, w.oid, 0, w.fdwacl, pg_catalog.format('foreign data wrapper %%I', w.fdwname)
      from pg_catalog.pg_foreign_data_wrapper w where w.fdwacl is not null
    union all
    select 'pg_catalog.pg_largeobject'::pg_catalog.regclass, l.oid, 0, l.lomacl, pg_catalog.format('large object %%s', l.oid)
      from pg_catalog.pg_largeobject_metadata l where l.lomacl is not null
)
select 'grant' as kind, granted.name,
       (select pg_catalog.string_agg(entry, ',' order by entry collate "C")
          from (select pg_catalog.concat_ws(' ', case when x.grantee = 0 then 'public' else pg_catalog.pg_get_userbyid(x.grantee)::text end,
                                            x.privilege_type, x.is_grantable) as entry
                  from pg_catalog.aclexplode(granted.acl) x) entries) as definition
  from granted
  left join pg_catalog.pg_init_privs i on i.classoid = granted.class and i.objoid = granted.oid and i.objsubid = granted.part
 where case when i.objoid is not null then i.initprivs is distinct from granted.acl else granted.oid >= 16384 or granted.part > 0
            or granted.class <> 'pg_catalog.pg_class'::pg_catalog.regclass end
   and not exists (select from pg_catalog.pg_depend d
                    where d.classid = granted.class and d.objid = granted.oid and d.deptype = 'e' and i.objoid is null)
union all
select 'default privilege',
       pg_catalog.concat_ws(' ', pg_catalog.pg_get_userbyid(d.defaclrole), n.nspname, d.defaclobjtype),
       (select pg_catalog.string_agg(entry, ',' order by entry collate "C")
          from (select pg_catalog.concat_ws(' ', case when x.grantee = 0 then 'public' else pg_catalog.pg_get_userbyid(x.grantee)::text end,
                                            x.privilege_type, x.is_grantable) as entry
                  from pg_catalog.aclexplode(d.defaclacl) x) entries)
  from pg_catalog.pg_default_acl d
  left join pg_catalog.pg_namespace n on n.oid = d.defaclnamespace;
