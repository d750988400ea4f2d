-- What runs have changed of other databases' indexes, so that the way back needs no run folder: in Drillbook's own database.
set client_min_messages = warning;
do $$
begin
    if not exists (select from pg_catalog.pg_namespace where nspname = 'drillbook') then
        create schema drillbook;
    end if;
end
$$;
create table if not exists drillbook.index_change (
    run_id text not null,
    undoes text not null,
    database text not null,
    action text not null check (action in ('built', 'dropped')),
    schema_name text not null,
    table_name text not null,
    index_name text not null,
    statement text not null,
    noted_at timestamptz not null default pg_catalog.clock_timestamp(),
    done_at timestamptz,
    undone_by text not null default '',
    primary key (run_id, database, action, schema_name, index_name)
);
