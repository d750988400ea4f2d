-- What all databases of the cluster share: roles with their attributes (no passwords), memberships, settings of roles and
-- databases, databases with their owners and privileges, tablespaces. Readable by every role.
select 'role' as kind, pg_catalog.quote_ident(r.rolname) as name,
       pg_catalog.concat_ws(' | ', r.rolsuper, r.rolinherit, r.rolcreaterole, r.rolcreatedb, r.rolcanlogin, r.rolreplication,
                            r.rolbypassrls, r.rolconnlimit, r.rolvaliduntil) as definition
  from pg_catalog.pg_roles r
union all
select 'membership',
       pg_catalog.concat_ws(' ', member.rolname, 'in', role.rolname, 'by', grantor.rolname),
       (pg_catalog.to_jsonb(m) - '{oid,roleid,member,grantor}'::text[])::text
  from pg_catalog.pg_auth_members m
  join pg_catalog.pg_roles role on role.oid = m.roleid
  join pg_catalog.pg_roles member on member.oid = m.member
  left join pg_catalog.pg_roles grantor on grantor.oid = m.grantor
union all
select 'setting', pg_catalog.concat_ws(' in ', coalesce(r.rolname, 'every role'), coalesce(d.datname, 'every database')),
       (select pg_catalog.string_agg(setting, ',' order by setting collate "C") from pg_catalog.unnest(s.setconfig) setting)
  from pg_catalog.pg_db_role_setting s
  left join pg_catalog.pg_roles r on r.oid = s.setrole
  left join pg_catalog.pg_database d on d.oid = s.setdatabase
union all
select 'database', pg_catalog.quote_ident(d.datname),
       pg_catalog.concat_ws(' | ', pg_catalog.pg_get_userbyid(d.datdba), pg_catalog.pg_encoding_to_char(d.encoding), d.datcollate, d.datctype,
           d.datistemplate, d.datallowconn, d.datconnlimit,
           (select pg_catalog.string_agg(entry, ',' order by entry collate "C")
              from (select pg_catalog.concat_ws(' ', case when x.grantee = 0 then 'public' else pg_catalog.pg_get_userbyid(x.grantee)::text end,
                                                x.privilege_type, x.is_grantable) as entry
                      from pg_catalog.aclexplode(coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) x) entries))
  from pg_catalog.pg_database d
union all
select 'tablespace', pg_catalog.quote_ident(t.spcname), pg_catalog.concat_ws(' | ', pg_catalog.pg_get_userbyid(t.spcowner), t.spcoptions::text)
  from pg_catalog.pg_tablespace t;
