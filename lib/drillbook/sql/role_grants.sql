-- What this role needs in Drillbook's own database for a drill, and whether it has it.
select pg_catalog.format('EXECUTE on function pg_switch_wal() in database %%I', pg_catalog.current_database()) as what,
       pg_catalog.has_function_privilege('pg_catalog.pg_switch_wal()', 'EXECUTE') as granted
union all
select 'EXECUTE on function pg_control_system()',
       pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')
union all
select case when s.oid is null then pg_catalog.format('CREATE on database %%I', pg_catalog.current_database())
            else 'USAGE and CREATE on schema drillbook'
       end,
       case when s.oid is null then pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')
            else pg_catalog.has_schema_privilege(s.oid, 'USAGE') and pg_catalog.has_schema_privilege(s.oid, 'CREATE')
       end
  from (values (0)) one
  left join pg_catalog.pg_namespace s on s.nspname = 'drillbook'
union all
-- Made by another role, the tables themselves have to be granted.
select pg_catalog.format('SELECT, INSERT and DELETE on table %%I.%%I', s.nspname, c.relname),
       pg_catalog.has_table_privilege(c.oid, 'SELECT') and pg_catalog.has_table_privilege(c.oid, 'INSERT')
           and pg_catalog.has_table_privilege(c.oid, 'DELETE')
  from pg_catalog.pg_namespace s
  join pg_catalog.pg_class c on c.relnamespace = s.oid and c.relname in ('marker', 'scratch') and c.relkind = 'r'
 where s.nspname = 'drillbook';
