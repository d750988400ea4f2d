-- What CREATE DATABASE and ALTER DATABASE have given to the current database, by names: no oid, and not its own name.
-- Columns that differ between PostgreSQL 14 and 18 are reached through JSON. acl is null where nothing was ever granted.
select pg_catalog.pg_get_userbyid(d.datdba)::text as owner,
       pg_catalog.pg_encoding_to_char(d.encoding)::text as encoding,
       pg_catalog.to_jsonb(d) ->> 'datlocprovider' as provider,
       d.datcollate::text as collate,
       d.datctype::text as ctype,
       coalesce(pg_catalog.to_jsonb(d) ->> 'datlocale', pg_catalog.to_jsonb(d) ->> 'daticulocale') as locale,
       pg_catalog.to_jsonb(d) ->> 'daticurules' as icu_rules,
       t.spcname::text as tablespace,
       d.datconnlimit as connection_limit,
       d.datistemplate as is_template,
       pg_catalog.shobj_description(d.oid, 'pg_database') as comment,
       (select pg_catalog.jsonb_agg(entry order by entry::text collate "C")
          from (select pg_catalog.jsonb_build_object(
                           'role', case when x.grantee = 0 then null else pg_catalog.pg_get_userbyid(x.grantee) end,
                           'privilege', x.privilege_type, 'grantable', x.is_grantable) as entry
                  from pg_catalog.aclexplode(d.datacl) x) entries) as acl,
       (select pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('role', r.rolname, 'settings', pg_catalog.to_jsonb(s.setconfig))
                                    order by r.rolname collate "C" nulls first)
          from pg_catalog.pg_db_role_setting s left join pg_catalog.pg_roles r on r.oid = s.setrole
         where s.setdatabase = d.oid) as settings,
       (select pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('provider', l.provider, 'label', l.label) order by l.provider collate "C")
          from pg_catalog.pg_shseclabel l
         where l.classoid = 'pg_catalog.pg_database'::regclass and l.objoid = d.oid) as labels,
       (select pg_catalog.jsonb_agg(n.nspname) from pg_catalog.pg_namespace n where n.nspname = 'public') is not null as has_public,
       exists (select from pg_catalog.pg_extension e where e.extname = 'plpgsql') as has_plpgsql
  from pg_catalog.pg_database d
  join pg_catalog.pg_tablespace t on t.oid = d.dattablespace
 where d.datname = pg_catalog.current_database();
