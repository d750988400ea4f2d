-- Lets the role drillbook read the tables of one tenant whose rows a drill compares, and nothing else of that tenant.
--
-- A psql script, run as superuser in the tenant's database once for each schema with such tables; owner is the role
-- that creates the schema's tables, so that tables of later migrations can be read too:
--
--   psql -d synergyflow -v ON_ERROR_STOP=1 -v schema=synergyflow_incidents -v owner=synergyflow_app \
--        -f deploy/sql/drillbook-tenant.sql
--
-- What is read never leaves the server: a drill takes counts and keyed digests.

GRANT CONNECT ON DATABASE :"DBNAME" TO drillbook;
GRANT USAGE ON SCHEMA :"schema" TO drillbook;
GRANT SELECT ON ALL TABLES IN SCHEMA :"schema" TO drillbook;
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" IN SCHEMA :"schema" GRANT SELECT ON TABLES TO drillbook;

-- Belt and braces: the role holds no right to write here, and its transactions start read-only.
ALTER ROLE drillbook IN DATABASE :"DBNAME" SET default_transaction_read_only = on;
