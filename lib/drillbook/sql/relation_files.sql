-- The files of this database's own relations, by name: what WAL knows of a relation is only its file's number.
select pg_catalog.pg_relation_filenode(c.oid)::bigint as file,
       pg_catalog.format('%%I.%%I', n.nspname, c.relname) as name,
       c.relkind::text as kind,
       pg_catalog.pg_relation_filenode(c.oid) = c.oid as first_file, -- never truncated or rewritten since it was created
       (select oid::bigint from pg_catalog.pg_database where datname = pg_catalog.current_database()) as database
  from pg_catalog.pg_class c
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'm', 'i', 't', 'S')
   -- The catalogue has numbers below 16384, until VACUUM FULL gives it other files.
   and (n.nspname not in ('pg_catalog', 'information_schema') or pg_catalog.pg_relation_filenode(c.oid) >= 16384)
   and pg_catalog.pg_relation_filenode(c.oid) is not null;
