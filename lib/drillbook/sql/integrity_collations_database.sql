-- The collation version that this database recorded (since PostgreSQL 15), and what the library here gives.
select 'database ' || pg_catalog.quote_ident(d.datname) as name, d.datcollversion as recorded,
       pg_catalog.pg_database_collation_actual_version(d.oid) as actual
  from pg_catalog.pg_database d
 where d.datname = pg_catalog.current_database();
