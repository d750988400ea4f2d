"""Ticket and retest of a run: noted in the ledger after its seal, shown wherever the run is, and never a change of what was sealed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evidence_sample import RUNBOOK, SITE, failed, unproven, verified
from fix_vault import FAILED, Machine, Store, machine, store
from test_evidence_due import day
from test_evidence_folder import home, rows, words_of, written, year
from test_evidence_timestamps import Authority, authorities, stamped_profile, tsa

from drillbook.cli.app import status
from drillbook.evidence import Ledger, record, verify
from drillbook.evidence.archive import archive, lines_by_run
from drillbook.evidence.deviations import Noted, Wanted, deviates, faults, noted, retest_of
from drillbook.evidence.due import SealedRun
from drillbook.evidence_store import archive_sealed
from drillbook.model import Verdict

__all__ = ["authorities", "home", "machine", "store", "tsa", "year"]


def run(number: int, verdict: Verdict = Verdict.VERIFIED, **more: Any) -> SealedRun:
    return SealedRun(run_id=f"r{number}", runbook=RUNBOOK, started_at=day(number, 1), verdict=verdict, **more)


def line(ticket: str = "OPS-9", retested_by: str = "") -> Noted:
    return Noted(run_id="r1", at=day(2, 1), ticket=ticket, retested_by=retested_by, by="Ada")


def missed() -> dict[str, Any]:
    """A VERIFIED record of a run whose recovery took longer than its objective, which is not enforced."""
    events = verified()
    events[0] |= {"objectives": events[0]["objectives"] | {"rto_seconds": 60.0}}
    return record(events)


def test_i16_what_deviates_is_read_from_the_record() -> None:
    assert deviates(record(verified())) == ()
    assert deviates(record(failed()))[0].startswith("amcheck")
    assert any("boundary" in words for words in deviates(record(unproven())))
    assert deviates(missed()) == ("recovery time was 4 min 14 s, its objective is 1 min",)
    events = verified()
    events[0] |= {"git": {"commit": "1", "dirty": True}}
    assert deviates(record(events)) == ("the working tree had changes that are in no commit",)
    late = "not run: not known: step 4 (Choose a backup) failed"
    reasons = [
        "step 4: denied",
        f"rows: {late}",
        f"amcheck: {late}",
        "login: not run: not known: step 9 (Log in) failed",
    ]
    stopped = record(unproven())
    assert deviates({**stopped, "verdict": {**stopped["verdict"], "reasons": reasons}})[:3] == (
        "step 4: denied",
        "not run: rows, amcheck: step 4 (Choose a backup) failed",
        "not run: login: step 9 (Log in) failed",
    )


def test_i16_a_retest_is_named_or_the_next_verified_run_of_the_runbook() -> None:
    other = SealedRun(run_id="o", runbook="check-readiness", started_at=day(2, 1), verdict=Verdict.VERIFIED)
    bad = run(1, Verdict.FAILED, missed=("recovery time",))
    runs = [run(5), bad, other, run(2, Verdict.FAILED), run(3, altered="x"), run(4, missed=("recovery time",))]
    runs = sorted([*runs, run(6)], key=lambda one: one.started_at)
    assert retest_of(bad, [], []) is None
    found = retest_of(bad, [line()], runs)
    assert found and (found.run_id, found.named) == ("r5", False)
    found = retest_of(bad, [line(retested_by="r6"), line()], runs)
    assert found and (found.run_id, found.named) == ("r6", True)


ALL_WRONG = Wanted(ticket="https://ada:word@tracker/1", retested_by="r2", note="two\nlines", by=" ")


@pytest.mark.parametrize(
    ("wanted", "why", "words"),
    [
        (
            ALL_WRONG,
            ["x"],
            [
                "--note is not one line",
                "--ticket holds an address with credentials",
                "--by is not given",
                "r2 began at",
                "r2 is FAILED, only a VERIFIED run",
            ],
        ),
        (Wanted("", "", "", "Ada"), ["x"], ["--ticket is not given"]),
        (Wanted("T" * 501, "", "", "Ada"), ["x"], ["--ticket is not one line of at most 500 characters"]),
        (Wanted("T", "", "", "Ada"), [], ["--note must say what deviates"]),
        (Wanted("T", "r", "", "Ada"), ["x"], ["matches 4 sealed runs"]),
        (Wanted("T", "20", "", "Ada"), ["x"], ["is no sealed run of this site"]),
        (Wanted("T", "r3", "", "Ada"), ["x"], ["is the run itself"]),
        (Wanted("T", "r4", "", "Ada"), ["x"], ["missed the same objective: recovery time"]),
        (Wanted("T", "r5", "", "Ada"), ["x"], []),
        (Wanted("T", "r5", "seen by the auditor", "Ada"), [], []),
    ],
)
def test_i16_a_note_is_refused_with_every_fault(wanted: Wanted, why: list[str], words: list[str]) -> None:
    mine = run(3, Verdict.FAILED, missed=("recovery time",))
    runs = [run(2, Verdict.FAILED), mine, run(4, missed=("recovery time",)), run(5)]
    found = faults(mine, why, [], runs, wanted)
    assert len(found) == len(words), found
    for expected in words:
        assert any(expected in fault for fault in found), (expected, found)


def test_i16_a_second_note_needs_no_ticket_but_something_to_say() -> None:
    mine = run(1, Verdict.FAILED)
    assert faults(mine, ["x"], [line()], [mine, run(2)], Wanted("", "r2", "", "Ada")) == []
    assert faults(mine, ["x"], [line()], [mine], Wanted("", "", "", "Ada"))[0].startswith("there is nothing to note")


def test_i16_a_record_has_no_field_that_its_seal_cannot_know() -> None:
    events = verified()
    assert record(events)["deviations"]["ticket"] is None, "a record of an earlier run stays what it is"
    events[0] |= {"schema": 3}
    found = record(events)
    assert set(found["deviations"]) == {"findings", "not_counted"}
    assert not [path for path in found["absent"] if path.startswith("deviations")]


def outputs_of(home: Path) -> tuple[Path, Ledger, Path]:
    outputs = home / "outputs"
    return outputs, Ledger.of(outputs, SITE), next((outputs / RUNBOOK).glob("20260201*"))


def test_i16_ticket_and_retest_are_noted_and_shown_and_change_nothing_that_was_sealed(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs, ledger, bad = outputs_of(home)
    site = ["--site", str(home / "site.yaml")]
    before = archive(bad, lines_by_run(ledger)), ledger.lines()[0]
    assert status(["deviation", bad.name]) == 0
    said = capsys.readouterr().out
    assert "noted     nothing" in said and "candidate 20260202" in said and "deviates  amcheck" in said
    assert status(["deviation", bad.name[:9], "--ticket", "OPS-9", "--by", "Ada Lovelace", *site]) == 0
    good = next((outputs / RUNBOOK).glob("20260202*"))
    assert (
        status(["deviation", bad.name, "--retested-by", good.name, "--note", "index rebuilt", "--by", "Grace", *site])
        == 0
    )
    assert "ticket OPS-9, retested by 20260202" in capsys.readouterr().out
    first, second = noted(ledger)[bad.name]
    assert (first.ticket, first.retested_by, second.retested_by, second.by) == ("OPS-9", "", good.name, "Grace")
    assert first.identity == "os" and first.account
    assert (archive(bad, lines_by_run(ledger)), ledger.lines()[0]) == (before[0], before[1] + 2)
    assert not [one for one in verify(outputs) if "20260610T100000Z-killed" not in str(one)]

    _, to = written(home)
    found = {row["run_id"]: row for row in rows(to)}
    assert found[bad.name]["deviation_ticket"] == "OPS-9" and found[bad.name]["deviation_note"] == "index rebuilt"
    assert (found[bad.name]["retested_by"], found[bad.name]["retest"]) == (good.name, "named")
    assert found[bad.name]["deviation_by"].startswith("Ada Lovelace (") and "Grace (" in found[bad.name]["deviation_by"]
    may = next(row for row in found.values() if row["opened_at"][5:7] == "05")
    assert (may["deviation_ticket"], may["retest"]) == ("", "candidate") and may["retested_by"].startswith("20260607")
    assert found[good.name]["deviations"] == ""
    read = words_of((to / "summary.html").read_text())
    assert f"{good.name} named" in read and "noted: index rebuilt" in read and "2 without a ticket" in read
    assert f"ticket OPS-9, retested by {good.name}" in (to / "summary.html").read_text(), (
        "in the trend's title of the run"
    )
    status(["index", *site])
    assert "OPS-9" in words_of((outputs / "index.html").read_text())


def test_i16_bad_input_is_refused_with_every_fault_and_nothing_is_noted(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, ledger, bad = outputs_of(home)
    before = ledger.lines()
    assert status(["deviation", bad.name, "--retested-by", "20260405", "--note", "x"]) == 4
    said = capsys.readouterr().err
    for words in (
        "3 faults",
        "--by is not given",
        "--ticket is not given",
        "UNPROVEN, only a VERIFIED run is a retest",
    ):
        assert words in said, words
    assert status(["deviation", "2099", "--ticket", "T", "--note", "a\nb"]) == 4
    said = capsys.readouterr().err
    assert "3 faults" in said and "there is no run" in said
    (bad / "SHA256SUMS").rename(bad / "sums")
    assert status(["deviation", bad.name, "--ticket", "T", "--by", "Ada"]) == 4
    assert "is not sealed" in capsys.readouterr().err
    (bad / "sums").rename(bad / "SHA256SUMS")
    (bad / "logs").mkdir(exist_ok=True)
    (bad / "logs" / "added.log").write_text("x")
    assert status(["deviation", bad.name, "--ticket", "T", "--by", "Ada"]) not in (0, 2)
    assert ledger.lines() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda entry, good: entry | {"record_sha256": "0" * 64}, "with another record than the one that was sealed"),
        (lambda entry, good: entry | {"run_id": "20990101T000000Z-000001"}, "which no line before it sealed"),
        (lambda entry, good: entry | {"retested_by": entry["run_id"]}, "no line before it sealed it as VERIFIED"),
    ],
)
def test_i16_a_line_that_was_forged_is_found(
    home: Path, change: Callable[[dict[str, Any], str], dict[str, Any]], words: str
) -> None:
    outputs, ledger, bad = outputs_of(home)
    good = next((outputs / RUNBOOK).glob("20260202*")).name
    digest = next(entry for entry in ledger.entries() if entry["run_id"] == bad.name and entry["kind"] == "seal")
    entry = {
        "run_id": bad.name,
        "runbook": RUNBOOK,
        "record_sha256": digest["record_sha256"],
        "ticket": "T",
        "by": "Ada",
    }
    ledger.deviation(**change(entry | {"retested_by": good}, good))
    assert [one for one in verify(outputs) if words in str(one) and one.tampered]
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(b"".join(lines[:-2] + lines[-1:]))
    assert [one for one in verify(outputs) if "edited" in one.what or "removed" in one.what]


def test_i16_a_note_is_stamped_and_archived_and_waits_while_the_bucket_is_away(
    machine: Machine, store: Store, tsa: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    stamped_profile(machine, tsa)
    site = ["--site", str(machine.profile)]
    folder = machine.run(FAILED)
    assert archive_sealed(machine.outputs, machine.site, folder) == ""
    ledger = Ledger.of(machine.outputs, SITE)
    assert status(["deviation", FAILED, "--ticket", "OPS-9", "--by", "Ada", *site]) == 0
    assert ledger.stamped() == [ledger.lines()[0]]
    assert status(["verify", machine.location, *site]) == 0
    store.faults(refuse=True)
    assert status(["deviation", FAILED, "--note", "disk replaced", "--by", "Ada", *site]) == 2
    assert "the ledger is not archived" in capsys.readouterr().out
    store.faults()
    assert status(["archive", *site]) == 0
    capsys.readouterr()
    assert status(["verify", machine.location, *site]) == 0
    kept = b"".join(
        store.client().get_object(Bucket="evidence", Key=key)["Body"].read()
        for key in store.keys(f"{machine.prefix}/{SITE}/ledger/0")
        if key.endswith(".jsonl")
    )
    assert b"disk replaced" in kept and kept == ledger.path.read_bytes()
