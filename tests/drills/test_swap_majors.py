"""A database with one of everything, transferred and swapped on every PostgreSQL at hand: a dump before and after is equal."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fix_drills import ROOT, DrillLab

from drillbook_lab import pgbin

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "library"))

from fix_integrity import READER
from fix_majors import NEWEST, OLDEST, found, why_missing
from test_integrity_structure import DUMPED, SINCE, TENANT

NOTEBOOK = ROOT / "runbooks" / "recover-point-in-time.ipynb"
NOW = """select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
DATABASE, ODD = "synergyflow", '"Odd ""Schema"" ü"."T x"'
CASTS = re.compile(r"::(?:text|character varying)(?:\[\])?|[()]")
FOUND = found()

ROWS = (
    "insert into range_parent select n, date '2026-01-01' + n, 'body ' || n from generate_series(1, 600) n",
    "insert into refers select id, day from range_parent where id % 3 = 0",
    "insert into hash_parent select generate_series(1, 100)",
    "insert into list_parent values ('ab', 1), ('ac', 1)",
    "insert into older values (1, 'a'), (2, E'tab\\t\\\\ and \"quotes\"')",
    "insert into younger values (3, 'c', 9)",
    "insert into booked values (1, '[2026-01-01,2026-01-02)'), (2, '[2026-01-02,2026-01-03)')",
    "insert into numbered (e) select null from generate_series(1, 40)",
    f"insert into {ODD} values ('x'), (null), ('ü\u2028\U0001f600')",
    "insert into scratch values (1)",
    "insert into typed_pair values (1, 'one')",
    "refresh materialized view by_title",
    f'grant usage on schema "Odd ""Schema"" ü" to drillbook; grant select on {ODD} to drillbook',
    "do $$begin for n in 1..{tables} loop execute format('create table many.%I (id int primary key, note text)', 'table ' || n); "
    "execute format('insert into many.%I values (1, %L)', 'table ' || n, n); if n % 50 = 0 then commit; end if; end loop; end$$",
)
LATER_ROWS = {
    18: (
        "insert into periods values (1, '[2026-01-01,2026-02-01)'), (1, '[2026-02-01,2026-03-01)')",
        "insert into of_periods values (1, '[2026-01-20,2026-02-10)')",
        "insert into virtual values (1), (2)",
    )
}


@pytest.fixture(
    params=[
        pytest.param(
            (major, 3000 if major == NEWEST else 200),
            id=f"PostgreSQL {major}",
            marks=pytest.mark.soak,
        )
        for major in range(OLDEST, NEWEST + 1)
    ]
)
def lab(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DrillLab]:
    """The first site on that major, its writer stopped, with everything in its first tenant's database."""
    major, tables = request.param
    if major not in FOUND:
        pytest.skip(why_missing(major))
    monkeypatch.setenv(pgbin.VARIABLE, str(FOUND[major]))
    made = DrillLab(tmp_path_factory.mktemp(f"swap{major}"), "first", 2)
    later = [statement for since, statements in SINCE.items() if major >= since for statement in statements]
    rows = [
        *ROWS,
        *(statement for since, statements in LATER_ROWS.items() if major >= since for statement in statements),
    ]
    with made.fault("writer-stopped"), made.recovering():
        for statement in (*TENANT, *DUMPED, *later, "create schema many", *rows):
            made.sql(DATABASE, statement.replace(READER, "drillbook").replace("{tables}", str(tables)))
        yield made
    made.down()


def dump(lab: DrillLab) -> list[str]:
    """What pg_dump says of the database, structure and rows, without the tokens that it draws.

    PostgreSQL itself writes the casts of ``varchar in (...)`` otherwise once it has read its own dump.
    """
    argv = ["pg_dump", "-U", "postgres", "--no-sync", DATABASE]
    done = lab.admin.exec(
        lab.site.cluster.namespace, f"{lab.site.cluster.name}-1", "postgres", argv, timeout_seconds=300
    )
    assert done.exit_code == 0, done.error_text
    lines = [line for line in done.text.splitlines() if not re.match(r"\\(un)?restrict |-- Dumped", line)]
    return [CASTS.sub("", line) if " ANY (" in line else line for line in lines]


def sequences(told: list[str]) -> dict[str, int]:
    """What each sequence of a dump is at; those that count down are counted the other way."""
    found = (re.search(r"setval\('(.+)', (-?\d+), \w+\)", line) for line in told)
    return {one[1]: abs(int(one[2])) for one in found if one}


@pytest.mark.timeout(3600)
def test_what_is_swapped_in_is_what_was_there(lab: DrillLab) -> None:
    tenants = [tenant.model_dump(mode="json", exclude_defaults=True) for tenant in lab.site.tenants]
    tenants[0]["digest_tables"] = [*tenants[0].get("digest_tables", ()), ODD, 'many."table 1"']
    lab.sql(DATABASE, "grant usage on schema many to drillbook; grant select on all tables in schema many to drillbook")
    profile = lab.profile_with("everything", tenants=tenants)
    before, target = dump(lab), lab.sql("postgres", NOW)
    lab.sql(
        DATABASE,
        f"delete from {ODD}; drop table range_parent cascade; insert into older values (9, 'damage'); truncate numbered",
    )
    run = lab.run(NOTEBOOK, site=profile, target_time=target)
    while run.code == 3:
        run = lab.go_on(run)
    assert (run.code, run.verdict) == (0, "VERIFIED"), run.said[-6000:]
    assert set(run.verdicts("transferred").values()) == {"VERIFIED"}, run.verdicts("transferred")
    after = dump(lab)
    counters, now = sequences(before), sequences(after)
    # What a sequence had written ahead in WAL, 32 values, no recovery gives back.
    assert counters.keys() == now.keys() and all(now[name] >= value for name, value in counters.items()), (
        counters,
        now,
    )
    lines, then = ([line for line in told if "setval(" not in line] for told in (after, before))
    made, gone = set(lines) - set(then), set(then) - set(lines)
    assert not gone
    assert all("INC-" in line or "synergyflow" in line for line in made) and len(made) <= 4, (
        made
    )  # the smoke test's own record
