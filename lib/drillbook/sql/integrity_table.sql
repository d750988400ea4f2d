-- One table by its name as the site's profile writes it (schema.table, quoted like in SQL): its kind, its name quoted by
-- the server itself, and whether rows of it live on another server. No row: there is no such table.
with recursive named as (
    select pg_catalog.parse_ident(%(name)s) as part
), relation as (
    select c.oid, c.relkind, pg_catalog.format('%%I.%%I', n.nspname, c.relname) as quoted
      from named
      join pg_catalog.pg_namespace n on n.nspname = part[1]
      join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = part[2]
     where pg_catalog.cardinality(part) = 2
       and c.relkind in ('r', 'p', 'm', 'v', 'f')
), child as (
    select oid from relation
     union
    select i.inhrelid from child join pg_catalog.pg_inherits i on i.inhparent = child.oid
)
select relation.quoted,
       relation.relkind::text as kind,
       pg_catalog.current_setting('server_version_num')::int as version,
       exists (select from child join pg_catalog.pg_class c using (oid) where c.relkind = 'f') as has_foreign_rows
  from relation;
