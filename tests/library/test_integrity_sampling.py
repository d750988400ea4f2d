"""A table beyond the budget is sampled by ranges of its key: equal on both sides, and called a sample wherever it is shown."""

from __future__ import annotations

import threading

import pytest
from tests.library.fix_integrity import Server, run

from drillbook.model import Check, Verdict
from drillbook.postgres.checks import (
    AtBoundary,
    Budget,
    TableDigest,
    digest_tables,
    digests_at_boundary,
    rows_equal,
    sampling,
)
from drillbook.postgres.client import Database

KEY = bytes(range(32))
ROWS = 30_000
MANY = f"select g as n, repeat('x', 400) as v from generate_series(1, {ROWS}) g"
KINDS = {
    "integer": f"create table big as select n::bigint as id, v from ({MANY}) s",
    "text, in no order": f"create table big as select md5(n::text) as id, v from ({MANY}) s",
    "uuid": f"create table big as select md5(n::text)::uuid as id, v from ({MANY}) s",
    "time": f"create table big as select timestamptz '2026-11-01' + n * interval '1 s' as id, v from ({MANY}) s",
    "numeric": f"create table big as select (n * 1.5)::numeric(12, 1) as id, v from ({MANY}) s",
    "quoted % and '": f"create table big as select '%' || n || '''\\' as id, v from ({MANY}) s",
}
SHARE = 4 << 20


def database(server: Server, kind: str, *more: str) -> str:
    return server.new_database(KINDS[kind], *more)


def digested(server: Server, name: str, tables: list[str], budget: Budget) -> AtBoundary[str]:
    return digests_at_boundary(server.reader, lambda: "marker", {name: tables}, KEY, budget=budget)


def compared(server: Server, copy: str, found: dict[str, TableDigest]) -> Check:
    with server.superuser(copy, read_only=True) as db:
        observed = digest_tables(db, list(found), KEY, {name: digest.sample for name, digest in found.items()})
    return rows_equal(found, observed)


def in_sample(db: Database, digest: TableDigest, *, inside: bool) -> str:
    """The place of some row that the sample holds, or doesn't."""
    assert digest.sample is not None
    where = digest.sample.where if inside else f"not ({digest.sample.where})"
    ((place,),) = db.ask_text(f"select ctid::text from big t where {where} limit 1")
    return str(place)


@pytest.mark.parametrize("kind", KINDS)
def test_g08_a_changed_row_is_found_inside_the_sampled_ranges_and_not_outside(server: Server, kind: str) -> None:
    """And in both cases the check says that it is a sample, and of how many rows."""
    source = database(
        server, kind, "alter table big add primary key (id)", "create table small as select 1 as k", "analyze"
    )
    found = digested(server, source, ["public.big", "public.small"], Budget(bytes=SHARE, small=SHARE))
    assert not found.unproven
    big, small = found.digests[source]["public.big"], found.digests[source]["public.small"]
    assert small.sampled == "" and small.rows == 1
    assert big.rows is not None and 0 < big.rows < ROWS
    assert f"{big.rows:,} of about" in big.sampled and "of id" in big.sampled
    assert "where" not in big.model_dump_json() and 'sample"' not in big.model_dump_json(), "bounds are values of rows"
    copy = server.new_database(like=source)
    healthy = compared(server, copy, found.digests[source])
    assert healthy.verdict is Verdict.VERIFIED
    assert "2 of 2 tables equal, 1 of them sampled: public.big (16 ranges of id, " in healthy.observed
    assert "of a sampled table, those that were read" in healthy.proves
    with server.superuser(copy) as db:
        outside, inside = (in_sample(db, big, inside=which) for which in (False, True))
        run(db, f"update big set v = 'changed' where ctid = '{outside}'")
        assert compared(server, copy, found.digests[source]).verdict is Verdict.VERIFIED
        run(db, f"update big set v = 'changed' where ctid = '{inside}'")
        assert compared(server, copy, found.digests[source]).verdict is Verdict.FAILED


@pytest.mark.parametrize(
    "lost",
    [
        pytest.param("delete from big where ctid = '{place}'", id="deleted"),
        pytest.param("insert into big select * from big where ctid = '{place}'", id="twice"),
        pytest.param("update big set id = -id where ctid = '{place}'", id="under another key"),
    ],
)
def test_g08_a_row_that_is_missing_or_too_many_in_a_range_is_found(server: Server, lost: str) -> None:
    source = database(server, "integer", "create unique index on big (id)", "analyze")
    found = digested(server, source, ["public.big"], Budget(bytes=SHARE, small=SHARE))
    copy = server.new_database(like=source)
    with server.superuser(copy) as db:
        run(db, "drop index big_id_idx")
        run(db, lost.format(place=in_sample(db, found.digests[source]["public.big"], inside=True)))
    assert compared(server, copy, found.digests[source]).verdict is Verdict.FAILED


def test_g08_the_sample_keeps_to_the_budget_and_changes_with_the_key(server: Server) -> None:
    """As many rows as the share has room for; the same ranges for the same key, others for another run's."""
    source = database(server, "integer", "alter table big add primary key (id)", "analyze")
    found = [
        digested(server, source, ["public.big"], Budget(bytes=SHARE, small=SHARE)).digests[source]["public.big"]
        for _ in range(2)
    ]
    assert found[0] == found[1]
    assert found[0].sample is not None
    assert (found[0].rows or 0) <= ROWS * SHARE / found[0].sample.of_bytes
    assert (found[0].rows or 0) >= ROWS * SHARE / found[0].sample.of_bytes * 0.8
    other = digests_at_boundary(
        server.reader, lambda: "m", {source: ["public.big"]}, KEY[::-1], budget=Budget(bytes=SHARE, small=SHARE)
    )
    assert other.digests[source]["public.big"].sample != found[0].sample


@pytest.mark.parametrize(
    ("statements", "why"),
    [
        pytest.param([], "it has no unique index", id="no key"),
        pytest.param(["create index on big (id)"], "it has no unique index", id="not unique"),
        pytest.param(["create unique index on big (id) where id > 0"], "it has no unique index", id="partial"),
        pytest.param(["create unique index on big ((id + 1))"], "it has no unique index", id="expression"),
        pytest.param(
            ["alter table big add tenant int not null default 1", "alter table big add primary key (tenant, id)"],
            "tenant, the first column of its key, has too few values",
            id="first column is the same for all",
        ),
    ],
)
def test_g08_a_large_table_without_a_usable_key_is_unproven_alone_or_read_whole(
    server: Server, statements: list[str], why: str
) -> None:
    """By the profile's choice; and the reason says what to do."""
    source = database(server, "integer", *statements, "create table small as select 1 as k", "analyze")
    found = digested(server, source, ["public.big", "public.small"], Budget(bytes=SHARE, small=SHARE))
    assert list(found.digests[source]) == ["public.small"]
    assert why in found.unproven[f"{source} public.big"]
    assert "digests.without_key" in found.unproven[f"{source} public.big"]
    whole = digested(server, source, ["public.big"], Budget(bytes=SHARE, small=SHARE, without_key="whole"))
    assert whole.digests[source]["public.big"].rows == ROWS
    assert whole.digests[source]["public.big"].sampled == ""


def test_g08_without_statistics_only_an_integer_key_can_be_divided(server: Server) -> None:
    """The number of rows must be known all the same: nothing can be said of a table that was never analysed."""
    text = database(server, "text, in no order", "alter table big add primary key (id)")
    assert (
        "ANALYZE it"
        in digested(server, text, ["public.big"], Budget(bytes=SHARE, small=SHARE)).unproven[f"{text} public.big"]
    )
    source = database(server, "integer", "alter table big add primary key (id)", "vacuum big")
    assert (
        digested(server, source, ["public.big"], Budget(bytes=SHARE, small=SHARE)).digests[source]["public.big"].sampled
    )


def test_g08_a_sampled_partitioned_table(server: Server) -> None:
    parts = [
        f"create table big_{n} partition of big for values from ({n * 10_000 + 1}) to ({(n + 1) * 10_000 + 1})"
        for n in range(3)
    ]
    source = server.new_database(
        "create table big (id bigint primary key, v text) partition by range (id)",
        *parts,
        f"insert into big {MANY}",
        "analyze",
    )
    found = digested(server, source, ["public.big"], Budget(bytes=SHARE, small=SHARE))
    assert "16 ranges of id" in found.digests[source]["public.big"].sampled
    assert compared(server, server.new_database(like=source), found.digests[source]).verdict is Verdict.VERIFIED


def test_g08_a_sampled_table_that_is_written_to_is_read_at_the_moment(server: Server) -> None:
    source = database(server, "integer", "alter table big add primary key (id)", "analyze")
    over = threading.Event()

    def write() -> None:
        with server.superuser(source) as db:
            while not over.wait(0.01):
                run(
                    db,
                    f"update big set v = 'written' where id in (select (random() * {ROWS})::int from generate_series(1, 20))",
                )

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        found = digested(server, source, ["public.big"], Budget(bytes=SHARE, small=SHARE))
    finally:
        over.set()
        writer.join(60)
    assert not found.unproven
    assert found.in_snapshot[source] == ("public.big",)
    assert found.digests[source]["public.big"].sampled


@pytest.mark.parametrize(
    ("sizes", "budget", "whole"),
    [
        pytest.param([1, 2, 3], Budget(), [True, True, True], id="no limit"),
        pytest.param([100, 200, 3000], Budget(bytes=1000 << 20), [True, True, False], id="small ones first"),
        pytest.param([900, 900, 900], Budget(bytes=900 << 20), [False, False, False], id="evenly"),
        pytest.param([60, 60, 60], Budget(bytes=1), [True, True, True], id="small is always whole"),
        pytest.param([100, 30_000], Budget(seconds=60), [True, False], id="by time"),
        pytest.param([100, 2000], Budget(bytes=1 << 40, seconds=60), [True, True], id="enough of both"),
        pytest.param([100, 2000], Budget(bytes=1 << 30, seconds=3600), [True, False], id="the tighter one counts"),
    ],
)
def test_g08_what_is_read_whole(sizes: list[int], budget: Budget, whole: list[bool]) -> None:
    """Megabytes by table, read in their order; at 40 MB/s, where nothing was measured."""
    names = [("db", str(number)) for number in range(len(sizes))]
    for name, size in zip(names, sizes, strict=True):
        budget.expect(name, size << 20)
    found = []
    for name, size in zip(names, sizes, strict=True):
        share = budget.share(name, size << 20)
        found.append(share is None)
        budget.read(name, int(share or size << 20), (share or size << 20) / sampling.ASSUMED_RATE)
    assert found == whole


def test_g08_the_time_budget_goes_by_the_measured_rate() -> None:
    """Ten seconds at 10 MB/s are 100 MB."""
    budget = Budget(seconds=20)
    budget.expect(("db", "first"), 100 << 20)
    budget.expect(("db", "second"), 1 << 30)
    budget.read(("db", "first"), 100 << 20, 10.0)
    assert budget.share(("db", "second"), 1 << 30) == pytest.approx(100 << 20)
