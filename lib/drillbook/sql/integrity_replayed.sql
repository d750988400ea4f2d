-- How far a replica has replayed; whether it is one.
select pg_catalog.pg_is_in_recovery() as in_recovery, pg_catalog.pg_last_wal_replay_lsn()::text as replayed;
