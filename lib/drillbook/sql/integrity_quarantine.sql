-- What a restored copy could do to the world outside by itself: settings, and processes that are not PostgreSQL's own.
select pg_catalog.current_setting('archive_mode') as archive_mode,
       case when pg_catalog.current_setting('archive_mode') = 'off' then '' else pg_catalog.current_setting('archive_command') end as archive_command,
       coalesce(pg_catalog.current_setting('archive_library', true), '') as archive_library, -- since 15
       pg_catalog.current_setting('max_logical_replication_workers')::int as logical_workers,
       pg_catalog.current_setting('primary_conninfo') as primary_conninfo,
       pg_catalog.current_setting('synchronous_standby_names') as synchronous_standby_names,
       pg_catalog.current_setting('shared_preload_libraries') as preloaded,
       (select count(*) from pg_catalog.pg_stat_wal_receiver) as wal_receivers,
       (select count(*) from pg_catalog.pg_stat_subscription where pid is not null) as subscription_workers,
       (select count(*) from pg_catalog.pg_subscription where subenabled) as subscriptions_enabled,
       (select count(*) from pg_catalog.pg_stat_replication
         where not (usename = 'streaming_replica' and application_name = any (%(own_standbys)s))) as walsenders,
       (select count(*) from pg_catalog.pg_foreign_server) as foreign_servers,
       -- pg_settings hides some of them.
       (select pg_catalog.json_object_agg(name, pg_catalog.current_setting(name, true)) from pg_catalog.unnest(%(settings)s::text[]) as name) as settings,
       (select coalesce(pg_catalog.array_agg(distinct backend_type order by backend_type), '{}')
          from pg_catalog.pg_stat_activity
         where backend_type not in ('client backend', 'autovacuum launcher', 'autovacuum worker', 'background writer', 'checkpointer',
                                    'walwriter', 'archiver', 'parallel worker', 'io worker', 'startup', 'walsummarizer', 'slotsync worker',
                                    'standalone backend', 'walsender')) as other_processes;
