-- The databases of the cluster by their object id, as commit records name them.
select oid::bigint as id, datname as name from pg_catalog.pg_database where not datistemplate order by oid;
