"""One test for each way of tampering: the file, line or link is named; a good run and an unfinished one pass."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evidence_sample import RUN_ID, RUNBOOK, SITE, failed, make_run, planned, verified, write_journal

from drillbook.errors import EvidenceTampered, EvidenceUnwritable
from drillbook.evidence import Journal, Ledger, canonical, record, require_intact, seal, verify
from drillbook.model import Verdict

LEDGER = f"ledger/{SITE}.jsonl"
FOLDER = f"{RUNBOOK}/{RUN_ID}"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outputs with three sealed runs: an earlier one, the one that the tests change, and a newest one."""
    outputs = tmp_path_factory.mktemp("good")
    for run_id in ("20261001T100000Z-000001", RUN_ID, "20261201T100000Z-000003"):
        make_run(outputs, run_id)
    return outputs


@pytest.fixture
def outputs(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "outputs"))


def change_lines(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


def told(outputs: Path, run_dir: Path | None = None) -> list[str]:
    return [str(finding) for finding in verify(outputs, run_dir) if finding.tampered]


def test_good_runs_are_accepted(outputs: Path) -> None:
    assert verify(outputs) == []
    assert verify(outputs, outputs / RUNBOOK / RUN_ID) == []
    require_intact(verify(outputs))


def test_standard_tools_accept_a_good_run(outputs: Path) -> None:
    done = subprocess.run(
        ["sha256sum", "--quiet", "--strict", "-c", "SHA256SUMS"], cwd=outputs / FOLDER, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def edited(lines: list[bytes]) -> list[bytes]:
    return [*lines[:40], lines[40].replace(b"VERIFIED", b"FAILED").replace(b"}", b' ,"x":1}', 1), *lines[41:]]


def added(lines: list[bytes]) -> list[bytes]:
    head = hashlib.sha256(lines[-1]).hexdigest()
    more = {"seq": len(lines) + 1, "at": "2026-11-01T10:10:00Z", "type": "fact", "name": "x", "value": 1, "prev": head}
    return [*lines, canonical(more) + b"\n"]


def forged(lines: list[bytes]) -> list[bytes]:
    """A line that follows the right one and has the right number, put before the one that did."""
    event = json.loads(lines[40]) | {"note": "forged"}
    return [*lines[:40], canonical(event) + b"\n", *lines[40:]]


def relinked(lines: list[bytes]) -> list[bytes]:
    """One event changed and every link after it recreated."""
    head, found = "", []
    for line in lines:
        event = json.loads(line) | {"prev": head}
        if event["type"] == "opened":
            event["actor"]["username"] = "someone-else"
        found.append(canonical(event) + b"\n")
        head = hashlib.sha256(found[-1]).hexdigest()
    return found


COUNT = len(verified()) + 1  # and the attempt
WAYS: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "edited": (edited, "line 41: was edited: line 42 does not continue it"),
    "first line edited": (lambda rows: [rows[0].replace(b"lab", b"prod", 1), *rows[1:]], "line 1: was edited"),
    "last line edited": (
        lambda rows: [*rows[:-1], rows[-1].replace(b"completed", b"perfected")],
        f"line {COUNT}: was edited",
    ),
    "reordered": (
        lambda rows: [*rows[:40], rows[41], rows[40], *rows[42:]],
        "line 41: holds event 42, and event 41 is on line 42: order changed",
    ),
    "dropped": (
        lambda rows: [*rows[:40], *rows[42:]],
        "line 41: holds event 43, and events 41 to 42 were dropped before it",
    ),
    "first dropped": (lambda rows: rows[1:], "line 1: holds event 2, and event 1 was dropped before it"),
    "inserted": (lambda rows: [*rows[:40], rows[5], *rows[40:]], "line 41: was inserted"),
    "inserted and linked": (forged, "line 41: was inserted: line 42 continues line 40"),
    "inserted twice": (
        lambda rows: [*rows[:41], rows[40], rows[40], *rows[41:]],
        "line 41: was inserted: line 42 continues line 40",
    ),
    "added at the end": (added, f"line {COUNT + 1}: was added: {COUNT} events were sealed"),
    "truncated by lines": (
        lambda rows: rows[:-3],
        f"line {COUNT - 2}: events {COUNT - 2} to {COUNT} are missing: the journal was truncated",
    ),
    "truncated in a line": (
        lambda rows: [*rows[:-1], rows[-1][:30]],
        f"line {COUNT}: does not end in a newline: it was truncated",
    ),
    "garbled": (lambda rows: [*rows[:40], b"garbage\n", *rows[41:]], "line 41: is no JSON object"),
    "links recreated": (relinked, f"line {COUNT}: was edited, or a line before it with all links recreated"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_journal_that_was_changed_names_the_line(outputs: Path, way: str) -> None:
    change, expected = WAYS[way]
    path = outputs / FOLDER / "journal.jsonl"
    change_lines(path, change)
    found = told(outputs)
    assert any(line.startswith(f"{FOLDER}/journal.jsonl {expected}") for line in found), found
    assert f"{FOLDER}/journal.jsonl: was changed: its digest is not the one in SHA256SUMS" in found
    assert not [line for line in found if not line.startswith(FOLDER)], "other runs are left alone"
    with pytest.raises(EvidenceTampered, match=r"journal\.jsonl"):
        require_intact(verify(outputs, outputs / FOLDER))


def test_a_changed_notebook_is_named(outputs: Path) -> None:
    path = outputs / FOLDER / "executed.ipynb"
    path.write_text(path.read_text().replace("run.close()", "run.close() # all good"))
    assert told(outputs) == [
        f"{FOLDER}/executed.ipynb: was changed: its digest is not the one in SHA256SUMS",
        f"{FOLDER}/executed.ipynb: is not the notebook that attempt 1 left",
    ]


def test_a_changed_notebook_with_new_sums_breaks_the_journal_and_the_ledger(outputs: Path) -> None:
    path = outputs / FOLDER / "executed.ipynb"
    old = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_text(path.read_text().replace("run.close()", "run.close() # all good"))
    sums = outputs / FOLDER / "SHA256SUMS"
    sums.write_text(sums.read_text().replace(old, hashlib.sha256(path.read_bytes()).hexdigest()))
    found = told(outputs)
    assert found[0] == f"{FOLDER}/executed.ipynb: is not the notebook that attempt 1 left"
    assert found[1].startswith(f"{FOLDER}/SHA256SUMS: is not the one that {LEDGER} line 4 sealed")


@pytest.mark.parametrize("name", ["report.html", "logs/recovery.log", "executed.ipynb", "record.json", "SHA256SUMS"])
def test_a_removed_file_is_named(outputs: Path, name: str) -> None:
    (outputs / FOLDER / name).unlink()
    assert any(line.startswith(f"{FOLDER}/{name}: ") for line in told(outputs))


def test_a_file_that_was_added_is_named(outputs: Path) -> None:
    (outputs / FOLDER / "logs" / "more.log").write_text("")
    assert told(outputs) == [f"{FOLDER}/logs/more.log: is not listed in SHA256SUMS: it was added after the seal"]


def test_a_changed_record_names_the_field(outputs: Path) -> None:
    path = outputs / FOLDER / "record.json"
    data = json.loads(path.read_bytes())
    data["objectives"]["measured"][0]["achieved_seconds"] = 1.0
    path.write_bytes(canonical(data) + b"\n")
    expected = "is not what the journal shows: objectives.measured[0].achieved_seconds is 1.0, the journal gives 253.6"
    assert f"{FOLDER}/record.json: {expected}" in told(outputs)


def test_a_run_made_anew_as_a_whole_is_found_by_the_ledger(outputs: Path) -> None:
    """Journal, record, report and sums are consistent in themselves, and not what was sealed."""
    folder = outputs / FOLDER
    events = [e | {"verdict": "VERIFIED"} if e["type"] == "check" else e for e in failed()]
    write_journal(folder / "journal.jsonl", events)
    (folder / "record.json").unlink()
    (folder / "SHA256SUMS").unlink()
    seal(folder, None)
    assert told(outputs) == [
        f"{FOLDER}/record.json: is not the one that {LEDGER} line 4 sealed",
        f"{FOLDER}/SHA256SUMS: is not the one that {LEDGER} line 4 sealed",
    ]


@pytest.mark.parametrize(
    ("run_id", "line"), [("20261001T100000Z-000001", 2), (RUN_ID, 4), ("20261201T100000Z-000003", 6)]
)
def test_a_removed_run_is_named_earliest_to_newest(outputs: Path, run_id: str, line: int) -> None:
    shutil.rmtree(outputs / RUNBOOK / run_id)
    gone = f"run {run_id} was sealed as VERIFIED, and its folder {RUNBOOK}/{run_id} or its journal is missing"
    assert told(outputs) == [f"{LEDGER} line {line}: {gone}"]


def test_a_run_that_was_opened_and_has_no_folder_is_named(outputs: Path) -> None:
    Ledger.of(outputs, SITE).open("20261202T100000Z-000004", RUNBOOK)
    assert [line.partition(",")[0] for line in told(outputs)] == [
        f"{LEDGER} line 7: run 20261202T100000Z-000004 was opened"
    ]


LEDGER_WAYS: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "edited": (
        lambda rows: [*rows[:3], rows[3].replace(b"VERIFIED", b"FAILED"), *rows[4:]],
        "line 5: names an entry that is not there: line 4 was edited, or entries were removed",
    ),
    "dropped": (lambda rows: [*rows[:2], *rows[4:]], "line 3: names an entry that is not there"),
    "reordered": (lambda rows: [*rows[:3], rows[4], rows[3], rows[5]], "line 4: names an entry that is not there"),
    "inserted": (lambda rows: [*rows[:3], rows[1], *rows[3:]], "line 4: does not continue line 3"),
    "first dropped": (lambda rows: rows[1:], "line 1: names an entry before it; none exists"),
    "garbled": (lambda rows: [*rows[:3], b"garbage\n", *rows[4:]], "line 4: is no JSON object"),
}


@pytest.mark.parametrize("way", LEDGER_WAYS)
def test_a_ledger_that_was_changed_names_the_link(outputs: Path, way: str) -> None:
    change, expected = LEDGER_WAYS[way]
    change_lines(outputs / LEDGER, change)
    found = told(outputs)
    assert any(line.startswith(f"{LEDGER} {expected}") for line in found), found


def test_the_end_of_the_ledger_cut_off_shows_by_the_runs_that_are_there(outputs: Path) -> None:
    change_lines(outputs / LEDGER, lambda rows: rows[:-2])
    assert told(outputs) == [
        f"{LEDGER}: has no entry for the opening of run 20261201T100000Z-000003",
        f"{LEDGER}: has no entry for the seal of run 20261201T100000Z-000003",
    ]


def test_a_ledger_that_vanished_is_named_for_every_run(outputs: Path) -> None:
    (outputs / LEDGER).unlink()
    assert len([line for line in told(outputs) if "but not its ledger" in line]) == 3


def test_a_run_in_another_runs_folder_is_named(outputs: Path) -> None:
    (outputs / FOLDER).rename(outputs / RUNBOOK / "20261101T100002Z-other")
    found = told(outputs)
    assert any(f"run_id is '{RUN_ID}', the folder says '20261101T100002Z-other'" in line for line in found)
    assert any(f"run {RUN_ID} was sealed as VERIFIED" in line for line in found)


def test_a_run_that_is_not_sealed_is_unfinished_and_not_tampered(outputs: Path) -> None:
    """As a kill -9 leaves it: open, with a torn last line."""
    run_id = "20261203T100000Z-000005"
    Ledger.of(outputs, SITE).open(run_id, RUNBOOK)
    path = outputs / RUNBOOK / run_id / "journal.jsonl"
    write_journal(
        path, [event | ({"run_id": run_id} if event["type"] == "opened" else {}) for event in verified()[:30]]
    )
    path.write_bytes(path.read_bytes() + b'{"at":"20')
    findings = verify(outputs)
    assert [(finding.rule, finding.tampered) for finding in findings] == [(1, False), (8, False)]
    assert "the run is unfinished" in findings[1].what
    require_intact(findings)


def test_a_plan_is_in_no_ledger_and_verifies(outputs: Path) -> None:
    run_id = "20261204T100000Z-000006"
    folder = outputs / RUNBOOK / run_id
    write_journal(
        folder / "journal.jsonl", [e | ({"run_id": run_id} if e["type"] == "opened" else {}) for e in planned()]
    )
    sealed = seal(folder, None)
    assert sealed.verdict is None
    assert verify(outputs) == []


def test_a_record_of_another_schema_is_left_as_it_is(outputs: Path) -> None:
    path = outputs / FOLDER / "record.json"
    path.write_bytes(path.read_bytes().replace(b"drillbook.record/1", b"drillbook.record/0"))
    assert any("not recomputed" in str(finding) and not finding.tampered for finding in verify(outputs))


def test_sealing_again_is_harmless_and_a_changed_run_is_refused(outputs: Path) -> None:
    folder, ledger = outputs / FOLDER, Ledger.of(outputs, SITE)
    before = ledger.path.read_bytes()
    assert seal(folder, ledger) == seal(folder, ledger)
    assert ledger.path.read_bytes() == before
    (folder / "logs" / "recovery.log").write_text("changed")
    with pytest.raises(EvidenceTampered, match=r"logs/recovery\.log was changed after the seal"):
        seal(folder, ledger)
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(EvidenceTampered, match="SHA256SUMS is missing, and the ledger says"):
        seal(folder, ledger)


def test_a_seal_that_was_interrupted_is_completed(tmp_path: Path) -> None:
    """Killed between the sums and the ledger: the next seal adds the ledger's entry."""
    folder = make_run(tmp_path)
    ledger = Ledger.of(tmp_path, SITE)
    change_lines(ledger.path, lambda rows: rows[:-1])
    assert any("no entry for the seal" in line for line in told(tmp_path))
    assert seal(folder, ledger).verdict is Verdict.VERIFIED
    assert told(tmp_path) == []


def test_a_seal_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    folder = tmp_path / RUNBOOK / RUN_ID
    write_journal(folder / "journal.jsonl", verified())
    (folder / ".record.json.part").mkdir()
    with pytest.raises(EvidenceUnwritable, match=r"record\.json can't be written"):
        seal(folder, None)


def test_a_journal_that_is_not_a_run_is_a_finding_and_no_crash(tmp_path: Path) -> None:
    path = tmp_path / RUNBOOK / "x" / "journal.jsonl"
    path.parent.mkdir(parents=True)
    events: list[dict[str, Any]] = [{"type": "fact", "name": "n", "value": 1, "at": "2026-11-01T10:00:00Z"}]
    write_journal(path, events)
    (path.parent / "SHA256SUMS").write_text("nonsense\n")
    assert any("is not the event `opened`" in line for line in told(tmp_path))


def test_the_record_is_the_same_whoever_computes_it(tmp_path: Path) -> None:
    write_journal(tmp_path / "journal.jsonl", [*verified()])
    events = Journal(tmp_path / "journal.jsonl").events()
    assert canonical(record(events)) == canonical(record(json.loads(json.dumps(events))))
