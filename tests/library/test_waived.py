"""What is so in production too is no fault of a recovery, and what is known can be accepted by name: nothing else is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from tests.library.fix_integrity import Server, run
from tests.unit.evidence_sample import opened

from drillbook.engine.gate import subject
from drillbook.engine.observations import Observations
from drillbook.engine.opening import waivers
from drillbook.evidence import Masker
from drillbook.evidence.judge import judge
from drillbook.model import Check, Verdict
from drillbook.postgres import checks
from drillbook.profile import load_site

NUMBERS = count(1)

FAULTS = {
    "materialised views": ("create materialized view {} as select 1 as n with no data", "refresh materialized view {}"),
    "sequences": ("create table {}(id serial primary key); insert into {}(id) values (500)", "delete from {}"),
}


@pytest.fixture
def both(server: Server) -> Iterator[tuple[str, str]]:
    """A source and a copy of it."""
    number = next(NUMBERS)
    names = (f"source{number}", f"copy{number}")
    with server.superuser("postgres") as db:
        for name in names:
            run(db, f"create database {name}")
    yield names


def made(server: Server, database: str, kind: str, thing: str, *, whole: bool) -> Check:
    broken, mended = FAULTS[kind]
    with server.superuser(database) as db:
        for statement in (broken, *([mended] if whole else [])):
            for one in statement.replace("{}", f"public.{thing}").split("; "):
                run(db, one)
        return checks.CHEAP[kind](db)


@pytest.mark.parametrize("kind", list(FAULTS))
def test_s02_what_is_so_in_production_too_is_no_fault(server: Server, both: tuple[str, str], kind: str) -> None:
    source, copy = both
    there, here = (made(server, name, kind, "known", whole=False) for name in (source, copy))
    assert (there.verdict, here.verdict) == (Verdict.FAILED, Verdict.FAILED)
    judged = checks.so_in_production_too(here, there)
    assert (
        judged.verdict is Verdict.VERIFIED
        and "so in production too" in judged.reason
        and judged.details == here.details
    )
    # One fault more in the copy, and it is the recovery's.
    assert checks.so_in_production_too(made(server, copy, kind, "new", whole=False), there).verdict is Verdict.FAILED


@pytest.mark.parametrize("kind", list(FAULTS))
def test_s02_what_is_whole_in_production_is_a_fault(server: Server, both: tuple[str, str], kind: str) -> None:
    source, copy = both
    there, here = made(server, source, kind, "known", whole=True), made(server, copy, kind, "known", whole=False)
    assert checks.so_in_production_too(here, there) == here


def collations(*faults: tuple[str, str]) -> Check:
    return Check(name="collations", proves="", verdict=Verdict.FAILED, details=faults)


def test_s02_versions_are_the_same_fault_in_the_same_words_only() -> None:
    recorded = ("de", "recorded 153.14, here 153.120")
    assert (
        checks.so_in_production_too(collations(recorded), collations(recorded, ("fr", "recorded 1, here 2"))).verdict
        is Verdict.VERIFIED
    )
    assert (
        checks.so_in_production_too(collations(("de", "recorded 153.14, here 153.121")), collations(recorded)).verdict
        is Verdict.FAILED
    )
    many = [(f"c{n}", "recorded 1, here 2") for n in range(12)]
    assert checks.so_in_production_too(collations(*many), collations(*many)).verdict is Verdict.FAILED, (
        "it may have been cut short"
    )


PROFILE = """\
name: shop
environment: test
cluster: {namespace: databases, name: shop-db}
tenants: [{database: shop, app_role: shop_app}]
waivers:
  - {check: "collations: shop", because: "glibc of the image is newer everywhere; reindexed on 2026-10-02"}
  - {check: "boundary", because: "never mind"}
  - {check: "quarantine: shop", because: "never mind"}
"""


@pytest.mark.parametrize(
    ("runbook", "check", "accepted"),
    [
        ("recover-point-in-time", "collations: shop", True),
        ("recover-point-in-time", "collations: wiki", False),
        ("recover-point-in-time", "collations", False),
        ("recover-point-in-time", "boundary", False),  # the library's floor
        ("recover-point-in-time", "quarantine: shop", False),
        ("drill-monthly-verification", "collations: shop", False),  # a drill tells what would be in the way
    ],
)
@pytest.mark.parametrize("verdict", [Verdict.FAILED, Verdict.UNPROVEN, Verdict.VERIFIED])
def test_s02_a_check_is_accepted_by_name_with_its_reason_in_the_record_and_at_the_gate(
    tmp_path: Path, runbook: str, check: str, accepted: bool, verdict: Verdict
) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(PROFILE, encoding="utf-8")
    told = Observations(tmp_path, Masker())
    told.waived = waivers(load_site(path), runbook)
    data = opened(runbook=runbook, required=[])
    told.journal.append(data.pop("type"), **data)
    told.check(Check(name=check, proves="", verdict=verdict, observed="2 of another version"))
    told.check(Check(name="rows", proves="", verdict=Verdict.VERIFIED))
    counts = accepted and verdict is not Verdict.VERIFIED
    assert bool(told.unmet()) is (verdict is not Verdict.VERIFIED and not accepted)
    (kept,) = (event for event in told.journal.events() if event["type"] == "check" and event["name"] == check)
    assert kept["verdict"] == verdict and ("reindexed on 2026-10-02" in kept["reason"]) is counts
    assert (judge(told.journal.events()).verdict is not verdict) is counts
    before, now = (
        subject("r1", {}),
        subject("r1", {}) | {f"accepted: {name}": why for name, why in told.accepted.items()},
    )
    assert (now != before) is counts
