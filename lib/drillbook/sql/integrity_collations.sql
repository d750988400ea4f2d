-- Collations whose rules had another version when they were recorded than the library here gives: text indexes built by
-- one may be wrong under the other. Collations without a version (C, libc of some systems) can't tell.
select pg_catalog.format('%%I.%%I', n.nspname, c.collname) as name, c.collversion as recorded,
       pg_catalog.pg_collation_actual_version(c.oid) as actual
  from pg_catalog.pg_collation c join pg_catalog.pg_namespace n on n.oid = c.collnamespace
 where c.collversion is not null
   and exists (select from pg_catalog.pg_depend d where d.refclassid = 'pg_catalog.pg_collation'::pg_catalog.regclass and d.refobjid = c.oid);
