-- The databases that can be connected to, templates aside. Readable by every role.
select datname as name from pg_catalog.pg_database where datallowconn and not datistemplate order by datname;
