-- What kind of server this is. Readable by every role; works in recovery too.
-- timeline: of the WAL being written; in recovery, of the last checkpoint (the control file lags behind a promotion).
select pg_catalog.version() as version,
       pg_catalog.current_setting('server_version_num')::int as server_version_num,
       (select system_identifier from pg_catalog.pg_control_system()) as system_identifier,
       case when pg_catalog.pg_is_in_recovery()
            then (select timeline_id from pg_catalog.pg_control_checkpoint())
            else ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::int
       end as timeline,
       pg_catalog.pg_is_in_recovery() as in_recovery,
       pg_catalog.current_setting('data_checksums') = 'on' as data_checksums,
       pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size')) as wal_segment_bytes,
       pg_catalog.current_setting('wal_level') as wal_level,
       pg_catalog.current_setting('archive_mode') as archive_mode,
       extract(epoch from pg_catalog.current_setting('archive_timeout')::interval)::int as archive_timeout_seconds,
       pg_catalog.current_setting('max_connections')::int as max_connections,
       pg_catalog.current_setting('max_logical_replication_workers')::int as max_logical_replication_workers,
       pg_catalog.current_setting('server_encoding') as server_encoding,
       pg_catalog.pg_postmaster_start_time() as started_at,
       pg_catalog.clock_timestamp() as clock;
