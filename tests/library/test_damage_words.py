"""What the search for the damage says of a transaction, by each major's own WAL: gone, emptied, or only rewritten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fix_integrity import Server, running
from fix_majors import MAJORS, found, why_missing
from psycopg.sql import SQL

from drillbook.postgres.wal import Runs, read_run
from drillbook.steps.archive.damage import Files, Relation, candidates


@pytest.fixture(scope="module", params=MAJORS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    programs = found().get(request.param)
    if programs is None:
        pytest.skip(why_missing(request.param))
    with running(tmp_path_factory.mktemp("damage"), programs=programs) as started:
        yield started


MADE = (
    "create table t (id int primary key, note text)",
    "insert into t select n, repeat('x', 3000) || n from generate_series(1, 500) n",
    "create table other (id int)",
    "insert into other select generate_series(1, 9)",
    "create materialized view m as select id from t",
    "create unique index on m (id)",
)

KINDS = [
    ("delete from t where id <= 20", "20 rows deleted from public.t", 20),
    ("drop table other", "1 file dropped (", 1_000_000),
    ("truncate t", "public.t truncated", 1_000_000),
    (
        "begin; truncate t; insert into t values (1, 'a'), (2, 'b'); commit",
        "public.t truncated or rewritten, then 2 rows written",
        2,
    ),
    (
        "begin; savepoint a; truncate t; release a; savepoint b; insert into other values (1); commit",
        "public.t truncated",
        1_000_000,
    ),
    ("begin; create table fresh as select 1; drop table other; commit", "1 file dropped (", 1_000_000),
    ("begin; delete from other; truncate t; commit", "9 rows deleted from public.other; public.t truncated", 1_000_009),
    ("vacuum full t", "public.t rewritten as it was (VACUUM FULL or CLUSTER)", 0),
    ("cluster t using t_pkey", "public.t rewritten as it was (VACUUM FULL or CLUSTER)", 0),
    ("alter table other alter column id type bigint", "public.other truncated or rewritten, then 9 rows written", 9),
    ("refresh materialized view m", "public.m refreshed", 0),
    (
        "begin; delete from t; refresh materialized view m; commit",
        "500 rows deleted from public.t; public.m refreshed",
        500,
    ),
    ("reindex table t", "", 0),
    ("reindex table concurrently t", "2 files of indexes dropped", 0),
    ("drop index m_id_idx", "1 file of indexes dropped", 0),
    ("begin; create table brief (id int primary key); drop table brief; commit", "", 0),
    ("begin; truncate t; rollback", "", 0),
    ("vacuum full pg_class", "", 0),
    ("create temporary table x as select 1; truncate x; drop table x", "", 0),
]


def wal(server: Server) -> list[Path]:
    return sorted((server.pgdata / "pg_wal").glob("00000001" + "?" * 16))


def next_segment(server: Server) -> str:
    """Begin a new segment; its name."""
    with server.superuser("postgres") as db:
        db.ask_text("select pg_switch_wal()")
        db.run(SQL("create table if not exists nothing (id int)"))
        ((name,),) = db.ask_text("select pg_walfile_name(pg_current_wal_insert_lsn())")
    return str(name)


def files(server: Server, database: str) -> Files:
    with server.superuser(database) as db:
        rows = list(db.ask("relation_files"))
    return Files(
        {
            (int(row["database"]), int(row["file"])): Relation(
                str(row["name"]), str(row["kind"]), bool(row["first_file"])
            )
            for row in rows
        },
        {},
    )


@pytest.mark.parametrize(("statement", "words", "weight"), KINDS, ids=[kind[0] for kind in KINDS])
def test_what_was_done_is_named_and_weighed(server: Server, statement: str, words: str, weight: int) -> None:
    database = server.new_database(*MADE)
    first = next_segment(server)
    server.sql(database, "checkpoint", statement)  # so that the first record of each page holds its image
    last = next_segment(server)
    segments = [(path.name, path.read_bytes()) for path in wal(server) if first <= path.name < last]
    seen = list(candidates(Runs().settle(read_run(segments, (), "")), files(server, database), ""))
    assert [one.what.partition("(")[0] for one in seen] == ([words.partition("(")[0]] if words else []), seen
    assert [one.weight for one in seen] == ([weight] if words else [])
