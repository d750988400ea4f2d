-- What stands on a database and can be neither carried nor renamed away from under its users. Readable by every role.
-- A parameter is the database's name.
select 'subscription' as what, s.subname::text as name
  from pg_catalog.pg_subscription s join pg_catalog.pg_database d on d.oid = s.subdbid
 where d.datname = %(database)s
union all
select 'replication slot', slot_name::text from pg_catalog.pg_replication_slots where database = %(database)s
union all
select 'prepared transaction', gid from pg_catalog.pg_prepared_xacts where database = %(database)s
 order by 1, 2;
