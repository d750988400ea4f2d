-- The server's own limits on sessions. reserved_connections is there since PostgreSQL 16.
select pg_catalog.current_setting('server_version_num')::int / 10000 as major,
       pg_catalog.current_setting('max_connections')::int as max_connections,
       pg_catalog.current_setting('superuser_reserved_connections')::int as superuser_reserved,
       coalesce(pg_catalog.current_setting('reserved_connections', true), '0')::int as reserved,
       (select r.rolconnlimit from pg_catalog.pg_roles r where r.rolname = %(role)s) as role_limit,
       (select d.datconnlimit from pg_catalog.pg_database d where d.datname = %(database)s) as database_limit;
