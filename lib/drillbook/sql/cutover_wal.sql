-- How much WAL may lie between two checkpoints. Readable by every role.
select pg_catalog.pg_size_bytes(pg_catalog.current_setting('max_wal_size')) as max_wal_bytes;
