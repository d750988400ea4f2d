-- Whether the server keeps the time of each commit, and its newest transaction id, which gives a row's xmin its epoch.
select pg_catalog.current_setting('track_commit_timestamp') = 'on' as kept,
       pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint as next_xid;
