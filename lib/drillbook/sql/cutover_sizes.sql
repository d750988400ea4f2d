-- Bytes of the current database by tablespace, measured here; and how much WAL may lie between two checkpoints.
select coalesce(t.spcname, own.spcname)::text as tablespace,
       sum(pg_catalog.pg_relation_size(c.oid, 'main') + pg_catalog.pg_relation_size(c.oid, 'fsm')
           + pg_catalog.pg_relation_size(c.oid, 'vm'))::bigint as bytes
  from pg_catalog.pg_class c
  join pg_catalog.pg_database d on d.datname = pg_catalog.current_database()
  join pg_catalog.pg_tablespace own on own.oid = d.dattablespace
  left join pg_catalog.pg_tablespace t on t.oid = c.reltablespace
 where c.relkind in ('r', 'i', 't', 'm', 'S') and not c.relisshared
 group by 1
 order by 1;
