-- Every database that can be connected to, with its size where this role may know it.
select d.datname::text as name,
       pg_catalog.pg_get_userbyid(d.datdba)::text as owner,
       pg_catalog.pg_encoding_to_char(d.encoding)::text as encoding,
       d.datistemplate as is_template,
       d.datconnlimit as connection_limit,
       pg_catalog.has_database_privilege(d.oid, 'CONNECT') as may_connect,
       case when pg_catalog.has_database_privilege(d.oid, 'CONNECT')
              or pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE')
            then pg_catalog.pg_database_size(d.oid)
       end as size_bytes
  from pg_catalog.pg_database d
 where d.datallowconn
 order by d.datname;
