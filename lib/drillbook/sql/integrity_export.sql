-- The snapshot of this one statement: under which name other transactions can take it over, and what it sees.
select pg_catalog.pg_export_snapshot() as id, pg_catalog.pg_current_snapshot()::text as sees;
