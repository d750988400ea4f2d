-- Whether pages carry checksums, and how many pages read so far in any database failed theirs.
select pg_catalog.current_setting('data_checksums') as data_checksums,
       coalesce(sum(checksum_failures), 0)::bigint as failures,
       pg_catalog.string_agg(distinct coalesce(datname, 'shared catalogues'), ', ') filter (where checksum_failures > 0) as databases
  from pg_catalog.pg_stat_database;
