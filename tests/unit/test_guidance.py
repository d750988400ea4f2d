"""A known error text leads to a runbook and a heading that exist; an unknown one, and a troubleshooting run, lead nowhere."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from evidence_sample import failed

from drillbook.evidence import record
from drillbook.report import cards
from drillbook.report import page as report
from drillbook.report.guidance import KNOWN, KnownText, guide, guides

RUNBOOKS = Path(__file__).parents[2] / "runbooks"
RECOVERY, BACKUP, CONNECTION = (
    "troubleshoot-recovery-slow",
    "troubleshoot-backup-failed",
    "troubleshoot-connection-changed",
)
TEXTS = {
    "the recovery of drills/c-1 failed: Expected empty archive; exit status 1": RECOVERY,
    "the recovery of drills/c-1 failed: An error occurred (AccessDenied) when calling ListObjectsV2": RECOVERY,
    "drills/c-1 was not up within 2700 s; last seen: Setting up primary, fetching the base backup": RECOVERY,
    "FATAL: recovery ended before configured recovery target was reached": RECOVERY,
    "no backup found with ID 20200101T000000": RECOVERY,
    "Backup ns/c-2 is failed: cannot proceed with the backup as the cluster has no backup section": BACKUP,
    "WAL archive check failed for server orders: Expected empty archive": BACKUP,
    "Backup ns/c-2 is walArchivingFailing: no message": BACKUP,
    "s3://b/p: An error occurred (AccessDenied) when calling the ListObjectsV2 operation": BACKUP,
    'login as app: FATAL: password authentication failed for user "app"': CONNECTION,
    'FATAL:  no pg_hba.conf entry for host "10.0.0.9", user "app", database "app", no encryption': CONNECTION,
    'FATAL:  role "app" is not permitted to log in': CONNECTION,
    'FATAL:  database "app" is not currently accepting connections': CONNECTION,
    'FATAL:  permission denied for database "app"': CONNECTION,
}


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.heading)
def test_i17_each_runbook_and_heading_that_is_named_exists(known: KnownText) -> None:
    notebook = nbformat.read(RUNBOOKS / f"{known.runbook}.ipynb", as_version=4)
    headings = [line for cell in notebook.cells for line in cell.source.splitlines() if line.startswith("## ")]
    assert f"## {known.heading}" in headings
    assert not known.failed_run or "failed_run = " in "".join(cell.source for cell in notebook.cells)


@pytest.mark.parametrize("text", TEXTS)
def test_i17_a_recorded_text_leads_to_its_runbook(text: str) -> None:
    said = guide(text, run_id="r1", asked_by="drill-monthly-verification")
    assert f"The runbook {TEXTS[text]} looks for the cause: open it at" in said
    assert ('failed_run = "r1"' in said) == (TEXTS[text] == RECOVERY and "not up within" not in text)


def test_i17_an_unknown_text_and_a_troubleshooting_run_lead_nowhere() -> None:
    assert guide("the moon is full", run_id="r1", asked_by="drill-monthly-verification") == ""
    assert guide("Expected empty archive", run_id="r1", asked_by=BACKUP) == ""
    # Its archive would be refused if the cluster were made again; no backup fails now.
    assert guide("Its WAL is not archived (Expected empty archive)", run_id="r1", asked_by="check-git-rebuild") == ""


def test_i17_card_and_report_of_a_failed_run_name_the_runbook() -> None:
    events = failed()
    assert guides(record(events)) == [] and BACKUP not in report.html(record(events))
    for event in events:
        if event["type"] == "check" and event["verdict"] == "FAILED":
            event["observed"] = "archiving failed: WAL archive check failed for server orders: Expected empty archive"
    found = record(events)
    (said,) = guides(found)
    assert BACKUP in said and said in report.html(found)
    assert said in cards.verdict_card(found)["text/plain"] and BACKUP in cards.verdict_card(found)["text/html"]
