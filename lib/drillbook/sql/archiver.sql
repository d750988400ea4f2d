-- Whether WAL archiving works, and the parts of the archive lag: the clock, where the WAL is now, what was archived last.
-- last_archived_wal may also be a .history or .backup file. waiting_segments counts the finished segments between the
-- last archived one and the current one; null when the last archived file is no segment of the current timeline.
with wal as (
    select case when not pg_catalog.pg_is_in_recovery() then pg_catalog.pg_current_wal_lsn() end as lsn,
           pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size')) as segment_bytes
), place as (
    select wal.*, pg_catalog.pg_walfile_name(wal.lsn) as current_wal,
           (wal.lsn - '0/0'::pg_catalog.pg_lsn)::bigint / wal.segment_bytes as current_number
      from wal
)
select a.archived_count, a.last_archived_wal, a.last_archived_time,
       a.failed_count, a.last_failed_wal, a.last_failed_time, a.stats_reset,
       pg_catalog.current_setting('archive_mode') as archive_mode,
       place.lsn::text as lsn, place.current_wal, place.segment_bytes,
       extract(epoch from pg_catalog.clock_timestamp() - a.last_archived_time)::float8 as seconds_since_archived,
       case when a.last_archived_wal ~ '^[0-9A-F]{24}$'
             and pg_catalog.left(a.last_archived_wal, 8) = pg_catalog.left(place.current_wal, 8)
            then place.current_number - 1
                 - (('x' || pg_catalog.substr(a.last_archived_wal, 9, 8))::bit(32)::bigint * (4294967296 / place.segment_bytes)
                    + ('x' || pg_catalog.substr(a.last_archived_wal, 17, 8))::bit(32)::bigint)
       end as waiting_segments,
       pg_catalog.clock_timestamp() as clock
  from pg_catalog.pg_stat_archiver a, place;
