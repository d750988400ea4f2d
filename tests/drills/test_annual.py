"""The annual restore: two old backups come back from an archive class; what is missing of retention is named."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fix_drills import ROOT, Drill, DrillLab, until

from drillbook_lab.faults.store import Bucket, bucket
from drillbook_lab.home import LabHome
from drillbook_lab.site.long_term import FOLDER

NOTEBOOK = ROOT / "runbooks" / "drill-annual-archive-restore.ipynb"
LAST = datetime.now(UTC).year - 1
OLDEST, NEWEST = f"{LAST - 1}1230T020000", f"{LAST}1230T020000"


class Years:
    """Two long-term backups in the lab, of the last two years; what a test changes of them is gone afterwards."""

    def __init__(self, lab: DrillLab) -> None:
        self.lab, home = lab, LabHome(lab.home)
        self.store: Bucket = bucket(home)
        self.s3 = home.s3

    def make(self, years: int = 2, storage_class: str = "GLACIER") -> None:
        self.lab._lab("long-term", "--years", str(years), "--storage-class", storage_class)

    def site(self, name: str, years: int = 2, **more: Any) -> Path:
        """The lab's profile for a site that has made such backups for so many years."""
        return self.lab.profile_with(name, long_term={"since": f"{LAST + 1 - years}-01-01T00:00:00Z", **more})

    def objects(self, below: str = "") -> list[str]:
        prefix = f"{self.store.prefix}{FOLDER}/{below}"
        pages = self.store.client.get_paginator("list_objects_v2").paginate(Bucket=self.store.name, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", ())]

    @property
    def archived(self) -> list[str]:
        """What has to be asked for to recover them: data and segments, not the backups' labels."""
        return [key for key in self.objects() if re.search(r"/data|/wals/", key) and ".backup" not in key]

    def take(self, *seconds: tuple[str, float]) -> None:
        """How long a retrieval takes from now on, by tier."""
        (self.s3 / "retrieval.json").write_text(json.dumps(dict(seconds)))

    def requests(self) -> list[tuple[str, str]]:
        """(key, object) of every RestoreObject that the store has let pass."""
        lines = [json.loads(line) for line in (self.s3 / "access.jsonl").read_text().splitlines()]
        asked = [line for line in lines if line["method"] == "POST" and "restore" in line["query"]]
        return [(line["key"], line["object"]) for line in asked if line["status"] in (200, 202)]

    def remove(self) -> None:
        for key in self.objects():
            self.store.remove(key)
        (self.s3 / "retrieval.json").unlink(missing_ok=True)
        (self.s3 / "retrievals.json").unlink(missing_ok=True)  # the same objects may be made again by another test


@pytest.fixture
def years(drill_lab: DrillLab) -> Iterator[Years]:
    found = Years(drill_lab)
    yield found
    found.remove()


def names(run: Drill, verdict: str) -> list[str]:
    return [check["name"] for check in run.of("check") if check["verdict"] == verdict and check["required"]]


@pytest.mark.long
def test_i17_two_old_backups_come_back_from_the_archive(years: Years) -> None:
    years.make()
    before = len(years.requests())
    run = years.lab.run(NOTEBOOK, site=years.site("annual"))
    (section,) = run.of("waiting")
    asked = years.archived
    touched = [re.sub(r".* s3://[^/]+/", "", touch) for touch in section["steps"][0]["plan"]["touches"]]
    assert sorted(touched) == sorted(asked), "the plan names exactly what lies in the archive class"
    assert len(years.requests()) == before, "nothing is asked for before it is confirmed"
    run = years.lab.go_on(run)
    assert (run.code, run.verdict) == (0, "VERIFIED"), run.said
    requests = years.requests()[before:]
    assert sorted(key for _, key in requests) == sorted(asked) and len({who for who, _ in requests}) == 1
    for name in ("retention", "long-term backups", "oldest: consistent", "random: consistent"):
        assert run.check(name)["verdict"] == "VERIFIED", name
    assert run.check("oldest: rows")["verdict"] == "n/a" and "not tested" in run.check("oldest: rows")["reason"]
    found = run.record["facts"]["long_term"]
    assert (found["oldest"], found["random"], found["requests"]) == (OLDEST, NEWEST, len(asked))
    assert found["achieved"]["oldest"]["retrieval_seconds"] >= 3
    assert {event["id"] for event in run.of("settled")} == set(run.created)


@pytest.mark.soak
def test_i17_a_year_without_a_backup_is_named_and_nobody_is_asked(years: Years) -> None:
    years.make()
    for key in years.objects(f"base/{NEWEST}/"):
        years.store.remove(key)
    run = years.lab.run(NOTEBOOK, site=years.site("gap"))
    assert (run.code, run.verdict) == (1, "FAILED"), run.said
    assert names(run, "FAILED") == ["retention"] and f"none of {LAST}" in run.check("retention")["observed"]
    assert not run.of("waiting") and not run.created


@pytest.mark.soak
def test_i17_a_backup_whose_wal_is_gone_is_named_and_leaves_a_gap(years: Years) -> None:
    years.make()
    (key, *_) = [key for key in years.archived if "/wals/" in key]
    years.store.remove(key)
    run = years.lab.run(NOTEBOOK, site=years.site("no-wal"))
    assert (run.code, run.verdict) == (1, "FAILED"), run.said
    assert names(run, "FAILED") == ["retention", "long-term backups"]
    segment = key.rpartition("/")[2][:24]
    assert f"{OLDEST}: of its" in run.check("long-term backups")["observed"]
    assert segment in run.check("long-term backups")["observed"]
    assert not run.of("waiting") and not run.created


@pytest.mark.soak
def test_i17_what_takes_hours_stops_the_run_and_is_waited_for_again(years: Years) -> None:
    years.make()
    years.take(("Standard", 45))
    before = len(years.requests())
    run = years.lab.go_on(years.lab.run(NOTEBOOK, site=years.site("slow", wait="2s")))
    assert run.code == 6 and "waiting: " in run.said, run.said
    asked = years.requests()[before:]
    assert asked and not run.created, "nothing is held while it waits"
    again = years.lab.drillbook("resume", run.folder.name)
    assert again.returncode == 6, "it may be resumed too early"
    ready = time.monotonic() + 45
    until(lambda: time.monotonic() > ready, "the archive has given them out")
    done = years.lab.drillbook("resume", run.folder.name)
    run = Drill(done.returncode, run.folder, done.stdout + done.stderr)
    assert (run.code, run.verdict) == (0, "VERIFIED"), run.said
    assert years.requests()[before:] == asked, "nothing was asked for twice"
    assert run.record["facts"]["long_term"]["achieved"]["random"]["retrieval_seconds"] > 45


@pytest.mark.soak
def test_i17_what_is_on_its_way_is_adopted(years: Years) -> None:
    years.make()
    years.take(("Standard", 8))
    (first, *rest) = years.archived
    wanted = {"Days": 3, "GlacierJobParameters": {"Tier": "Standard"}}
    run = years.lab.run(NOTEBOOK, site=years.site("adopted"))
    # Between the plan and its confirmation somebody else asks for one of the objects.
    years.store.client.restore_object(Bucket=years.store.name, Key=first, RestoreRequest=wanted)
    before = len(years.requests())
    run = years.lab.go_on(run)
    assert (run.code, run.verdict) == (0, "VERIFIED"), run.said
    assert sorted(key for _, key in years.requests()[before:]) == sorted(rest)


@pytest.mark.soak
def test_i17_rows_are_compared_from_year_to_year_and_without_an_archive_class_nobody_is_asked(
    years: Years, tmp_path: Path
) -> None:
    site = years.site("warm", years=1)
    with years.lab.on_another_machine(tmp_path):
        years.make(1, "STANDARD")
        first = years.lab.run(NOTEBOOK, site=site)
        assert (first.code, first.verdict) == (0, "VERIFIED"), first.said
        assert not first.of("waiting") and first.check("oldest: rows")["verdict"] == "n/a"
        second = years.lab.run(NOTEBOOK, site=site, seed="7")
        assert second.verdict == "VERIFIED" and second.record["facts"]["long_term"]["seed"] == 7
        assert second.check("oldest: rows")["verdict"] == second.check("random: rows")["verdict"] == "VERIFIED"
        years.lab.sql(
            "synergyflow",
            "delete from synergyflow_tasks.tasks where ctid in (select ctid from synergyflow_tasks.tasks limit 1)",
        )
        years.lab.back_up()
        years.make(1, "STANDARD")
        third = years.lab.run(NOTEBOOK, site=site)
        assert third.verdict == "FAILED" and names(third, "FAILED") == ["oldest: rows", "random: rows"], third.said
        assert f"as many as run {second.folder.name} found" in third.check("oldest: rows")["expected"]
        assert "synergyflow_tasks.tasks" in third.check("oldest: rows")["observed"]


@pytest.mark.soak
def test_i17_without_its_section_or_its_key_the_run_is_refused(years: Years) -> None:
    run = years.lab.run(NOTEBOOK, site=years.lab.profile_with("without", long_term=None))
    assert run.code == 4 and "the profile has no long_term" in run.said and not run.created, run.said
    run = years.lab.run(NOTEBOOK, site=years.site("no-key", secret={"name": "nowhere"}))
    assert run.code == 4 and "nowhere does not exist" in run.said and not run.created, run.said
    said = years.lab.drillbook("doctor", "--site", str(years.site("no-key", secret={"name": "nowhere"})))
    assert said.returncode == 4 and "nowhere does not exist" in said.stdout, said.stdout


@pytest.mark.soak
def test_i17_doctor_names_the_years_that_are_missing_and_none_where_all_are_there(years: Years) -> None:
    years.make()
    well = years.lab.drillbook("doctor", "--site", str(years.site("whole")))
    assert well.returncode == 0 and re.search(r"long-term backups +2 in s3://", well.stdout), well.stdout
    assert "one of each complete year that is owed" in re.sub(r"\s+", " ", well.stdout)
    short = years.lab.drillbook("doctor", "--site", str(years.site("short", years=3)))
    assert f"none of {LAST - 2}" in re.sub(r"\s+", " ", short.stdout), short.stdout
