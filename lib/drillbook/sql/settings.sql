-- The named settings in their own units, each with where it comes from. One that this role may not see is left out.
select name, setting, coalesce(unit, '') as unit, source, pending_restart
  from pg_catalog.pg_settings
 where name = any(%(names)s)
 order by name;
