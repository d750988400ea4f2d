-- The roles that the current database can't be without: owners, grantees, settings, its own owner.
select distinct r.rolname::text as name
  from pg_catalog.pg_roles r
 where exists (select from pg_catalog.pg_shdepend s
                where s.refclassid = 'pg_catalog.pg_authid'::regclass and s.refobjid = r.oid
                  and (s.dbid = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())
                       or s.classid = 'pg_catalog.pg_database'::regclass
                          and s.objid = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())))
    or exists (select from pg_catalog.pg_db_role_setting s join pg_catalog.pg_database d on d.oid = s.setdatabase
                where d.datname = pg_catalog.current_database() and s.setrole = r.oid)
    or exists (select from pg_catalog.pg_database d where d.datname = pg_catalog.current_database() and d.datdba = r.oid)
 order by 1;
