-- Drillbook's own tables in its own database; repeating it changes nothing. The schema may have been made beforehand by
-- someone who gave the role no right to create schemas, so it is looked for first.
set client_min_messages = warning;
do $$
begin
    if not exists (select from pg_catalog.pg_namespace where nspname = 'drillbook') then
        create schema drillbook;
    end if;
end
$$;
-- A marker may be written several times in one run; the newest of a name counts.
create table if not exists drillbook.marker (
    id bigint generated always as identity primary key,
    run_id text not null,
    name text not null,
    xid xid8 not null default pg_catalog.pg_current_xact_id(),
    written_at timestamptz not null default pg_catalog.clock_timestamp()
);
create index if not exists marker_run_id on drillbook.marker (run_id, name);
-- The rows that the simulated mistake deletes.
create table if not exists drillbook.scratch (
    run_id text not null,
    n integer not null,
    payload text not null,
    primary key (run_id, n)
);
