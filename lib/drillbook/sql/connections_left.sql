-- How many more sessions the server takes of those that are no superuser's.
select pg_catalog.current_setting('max_connections')::int
           - pg_catalog.current_setting('superuser_reserved_connections')::int
           - (select count(*) from pg_catalog.pg_stat_activity where backend_type = 'client backend') as connections;
