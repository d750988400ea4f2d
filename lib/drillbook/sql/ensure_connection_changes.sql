-- What runs have changed of applications' pools and of the limits behind them, so that the way back needs no run folder: in
-- Drillbook's own database.
set client_min_messages = warning;
do $$
begin
    if not exists (select from pg_catalog.pg_namespace where nspname = 'drillbook') then
        create schema drillbook;
    end if;
end
$$;
create table if not exists drillbook.connection_change (
    run_id text not null,
    undoes text not null,
    database text not null,
    kind text not null,
    namespace text not null,
    name text not null,
    place text not null,
    key text not null,
    before text not null,
    after text not null,
    noted_at timestamptz not null default pg_catalog.clock_timestamp(),
    done_at timestamptz,
    undone_by text not null default '',
    primary key (run_id, kind, namespace, name, place, key)
);
