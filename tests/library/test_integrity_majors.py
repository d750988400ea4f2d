"""Every question of the checks that look into the catalogue is answered by each major version that is supported."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.library.fix_integrity import Server, run, running
from tests.library.fix_majors import MAJORS, found, why_missing

from drillbook.model import Verdict
from drillbook.postgres.checks import catalogue_checks, quarantined

FOUND = found()
QUIET = {"max_logical_replication_workers": "0", "archive_mode": "off"}


@pytest.fixture(scope="module", params=MAJORS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if request.param not in FOUND:
        pytest.skip(why_missing(request.param))
    with running(
        tmp_path_factory.mktemp(f"pg{request.param}"), settings=QUIET, programs=FOUND[request.param]
    ) as started:
        yield started


def test_s04_the_quarantine_is_judged_on_every_major(server: Server) -> None:
    """`archive_library` is there since PostgreSQL 15: an older one has nothing of it to be asked."""
    with server.superuser("postgres", read_only=True) as db:
        check = quarantined(db)
    assert check.verdict is Verdict.VERIFIED, check
    with server.superuser("postgres") as db:
        run(db, "alter system set primary_slot_name = 'of_production'")
        run(db, "alter system set primary_conninfo = 'host=production'")
        run(db, "select pg_reload_conf()")
    with server.superuser("postgres", read_only=True) as db:
        assert quarantined(db).verdict is not Verdict.VERIFIED
    with server.superuser("postgres") as db:
        run(db, "alter system reset all")
        run(db, "select pg_reload_conf()")


def test_s04_catalogue_and_collations_are_judged_on_every_major(server: Server) -> None:
    """A database has a version of its collation since PostgreSQL 15; a collation has always had one."""
    with server.superuser("postgres") as db:
        run(db, 'create collation if not exists sorted from "C"')
        run(db, "create table if not exists t (n int primary key, word text collate sorted)")
    with server.superuser("postgres", read_only=True) as db:
        checks = {check.name: check for check in catalogue_checks(db)}
    assert {name: check.verdict for name, check in checks.items() if check.verdict is Verdict.FAILED} == {}, checks
    assert checks["collations"].verdict in (Verdict.VERIFIED, Verdict.NOT_APPLICABLE), checks["collations"]
    assert checks["constraints"].verdict is Verdict.VERIFIED
