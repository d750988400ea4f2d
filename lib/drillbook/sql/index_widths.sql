-- How wide the columns of these tables are on the average, where this role may see it.
select pg_catalog.format('%%s.%%s', s.schemaname, s.tablename) as "table", s.attname::text as "column", s.avg_width as width
  from pg_catalog.pg_stats s
 where pg_catalog.format('%%s.%%s', s.schemaname, s.tablename) = any(%(tables)s) and not s.inherited
 order by 1, 2;
