-- For each named database whether it exists and this role may connect.
select name,
       d.oid is not null as found,
       coalesce(pg_catalog.has_database_privilege(d.oid, 'CONNECT'), false) as granted,
       pg_catalog.format('CONNECT on database %%I', name) as what
  from pg_catalog.unnest(%(databases)s::text[]) with ordinality as asked (name, place)
  left join pg_catalog.pg_database d on d.datname = asked.name
 order by place;
