-- The foreign servers of this database: where a copy would reach out to. Of the options only host, port and dbname are
-- read.
select s.srvname::text as name,
       w.fdwname::text as wrapper,
       coalesce((select option_value from pg_catalog.pg_options_to_table(s.srvoptions) where option_name = 'host'), '') as host,
       coalesce((select option_value from pg_catalog.pg_options_to_table(s.srvoptions) where option_name = 'port'), '') as port,
       coalesce((select option_value from pg_catalog.pg_options_to_table(s.srvoptions) where option_name = 'dbname'), '')
           as dbname,
       (select count(*) from pg_catalog.pg_foreign_table t where t.ftserver = s.oid) as foreign_tables
  from pg_catalog.pg_foreign_server s
  join pg_catalog.pg_foreign_data_wrapper w on w.oid = s.srvfdw
 order by 1;
