-- The source's side of a drill: a role with next to no rights, and a database of its own for the marker rows.
--
-- A psql script, run once as superuser in any database of the cluster; running it again changes nothing:
--
--   psql -d postgres -v ON_ERROR_STOP=1 -f deploy/sql/drillbook-role.sql
--
-- Afterwards run drillbook-tenant.sql in each tenant's database whose tables are to be compared.
-- The role's password is kept by CloudNativePG (managed-role.yaml); this script sets none.

SELECT 'CREATE ROLE drillbook LOGIN CONNECTION LIMIT 10'
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'drillbook')
\gexec

-- CONNECTION LIMIT: a drill needs one session for each tenant's database, and three more. With fewer it still runs, but proves
-- only the tables that nobody writes to from their digest to the marker.

-- No statement of a drill may queue behind a tenant's lock and make others queue behind it. (Where a drill reads a tenant's
-- tables it sets 1 s itself, and it ends a read of its own that anybody waits for.)
ALTER ROLE drillbook SET lock_timeout = '5s';
-- A drill that dies with an open snapshot must not hold back vacuum.
ALTER ROLE drillbook SET idle_in_transaction_session_timeout = '15min';

-- Marker and scratch rows live here, never in a tenant's database: there they would enter its publications.
SELECT 'CREATE DATABASE drillbook OWNER drillbook'
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = 'drillbook')
\gexec
REVOKE ALL ON DATABASE drillbook FROM PUBLIC;

\connect drillbook

-- A function's grant is per database: WAL can be switched from this one and from no other.
GRANT EXECUTE ON FUNCTION pg_catalog.pg_switch_wal() TO drillbook;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO drillbook;
