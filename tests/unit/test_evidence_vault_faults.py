"""An upload that is cut off at any of its calls loses nothing, and is completed; two machines neither fork nor lose."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from evidence_sample import RUN_ID, RUNBOOK, SITE, verified, write_journal
from fix_vault import RUNS, Machine, Store, machine, store

from drillbook.cli.app import status
from drillbook.cli.doctor import examine
from drillbook.evidence import Ledger, verify
from drillbook.evidence_store import archive_sealed

__all__ = ["machine", "store"]

# Put, read back and read its lock, of the tar and the index; the head is asked for; the same three of lines and head.
CALLS = 2 * 3 + 1 + 2 * 3
UPLOAD = """
import sys
from pathlib import Path
from drillbook.profile import load_site
from drillbook.evidence_store import archive_sealed
print(archive_sealed(Path(sys.argv[1]), load_site(sys.argv[2]), Path(sys.argv[3])))
"""


def receipt(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "archived.json").read_bytes()))


def intact(machine: Machine) -> bool:
    return verify(machine.outputs) == []


def completed(machine: Machine, capsys: pytest.CaptureFixture[str]) -> bool:
    """The retry that a person types, and the bucket by itself."""
    machine.store.faults()
    done = status(["archive", "--site", str(machine.profile)]) == 0
    capsys.readouterr()
    well = status(["verify", machine.location, "--site", str(machine.profile)]) == 0
    said = capsys.readouterr()
    assert done and well, said.out + said.err
    return intact(machine)


def test_i16_the_calls_of_an_upload_are_those_that_are_faulted_here(machine: Machine, store: Store) -> None:
    folder = machine.run(RUN_ID)
    before = len(store.log())
    assert archive_sealed(machine.outputs, machine.site, folder) == ""
    assert len(store.log()) - before == CALLS


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("down", marks=pytest.mark.long),
        pytest.param("busy", marks=pytest.mark.soak),
        pytest.param("lose_answers", marks=pytest.mark.long),
        pytest.param("refuse", marks=pytest.mark.soak),
    ],
)
def test_i16_s3_failing_at_any_call_leaves_the_record_intact_and_pending(
    machine: Machine, store: Store, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    """From each call on: no answer, 503, an answer that is lost though it was done, 403; each run is completed later."""
    pristine = machine.home / "pristine"
    machine.run(RUN_ID)
    shutil.copytree(machine.outputs, pristine)
    for call in range(CALLS):
        shutil.rmtree(machine.outputs)
        shutil.copytree(pristine, machine.outputs)
        other = Machine(machine.home, store, f"{machine.prefix}-{how}-{call}")
        store.faults(**{how: True, "after": call, "what": call})
        why = archive_sealed(other.outputs, other.site, other.folder(RUN_ID))
        assert why.startswith("archive pending: "), (call, why)
        assert receipt(other.folder(RUN_ID))["state"] == "pending" and intact(other), call
        assert completed(other, capsys), call


@pytest.mark.parametrize(
    "how", ["lose_answers", *(pytest.param(how, marks=pytest.mark.soak) for how in ("down", "busy"))]
)
def test_i16_one_failing_answer_is_tried_again_and_not_even_pending(
    machine: Machine, store: Store, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    for number, run_id in enumerate(RUNS):
        folder = machine.run(run_id)
        store.faults(**{how: True, "after": 3 * number, "requests": 1})
        assert archive_sealed(machine.outputs, machine.site, folder) == "", run_id
    assert completed(machine, capsys)


@pytest.mark.parametrize(
    "every",
    [pytest.param(2, marks=pytest.mark.long), pytest.param(1, marks=pytest.mark.soak)],
    ids=["every second", "every one"],
)
def test_i16_an_upload_that_is_killed_at_any_call_is_done_again(
    machine: Machine, store: Store, capsys: pytest.CaptureFixture[str], every: int
) -> None:
    """`kill -9` while the store holds its n-th call: nothing is noted, and the next try completes it."""
    machine.run(RUN_ID)
    pristine = machine.home / "pristine"
    shutil.copytree(machine.outputs, pristine)
    for call in range(0, CALLS, every):
        shutil.rmtree(machine.outputs)
        shutil.copytree(pristine, machine.outputs)
        other = Machine(machine.home, store, f"{machine.prefix}-killed-{call}")
        store.faults(slow_ms=600_000, after=call, what=call)
        before = len(store.log())
        argv = [sys.executable, "-c", UPLOAD, str(other.outputs), str(other.profile), str(other.folder(RUN_ID))]
        process = subprocess.Popen(argv, env=os.environ)
        while len(store.log()) - before < call:  # the next one is held by the store
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert intact(other), call
        assert completed(other, capsys), call


@pytest.mark.parametrize("call", [1, *(pytest.param(call, marks=pytest.mark.soak) for call in (4, 8, 11))])
def test_i16_an_object_that_comes_back_by_half_is_not_taken_for_the_whole(
    machine: Machine, store: Store, capsys: pytest.CaptureFixture[str], call: int
) -> None:
    """Each read-back of an upload, of the tar, the index, the lines and the head, is cut off in the middle of its bytes."""
    folder = machine.run(RUN_ID)
    store.faults(halve_bodies=True, after=call)
    assert archive_sealed(machine.outputs, machine.site, folder).startswith("archive pending: reading s3://")
    assert completed(machine, capsys)


def test_i16_what_was_pending_is_copied_by_the_next_run(machine: Machine, store: Store) -> None:
    first, second = machine.run(RUNS[0]), machine.run(RUNS[1])
    store.faults(refuse=True)
    assert archive_sealed(machine.outputs, machine.site, first)
    store.faults()
    assert archive_sealed(machine.outputs, machine.site, second) == ""
    assert receipt(first)["state"] == receipt(second)["state"] == "archived"


def test_i16_two_machines_that_go_on_from_one_ledger_do_not_fork_it(
    machine: Machine, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two copies of one outputs folder, each with a run of its own: one is first, the other stops and loses nothing."""
    assert archive_sealed(machine.outputs, machine.site, machine.run(RUNS[0])) == ""
    second = Machine(machine.home.parent / "second", store, machine.prefix)
    shutil.copytree(machine.outputs, second.outputs)
    assert archive_sealed(machine.outputs, machine.site, machine.run(RUNS[1])) == ""
    folder = second.run(RUNS[2])
    why = archive_sealed(second.outputs, second.site, folder)
    mine, stored = Ledger.of(second.outputs, SITE).lines(), Ledger.of(machine.outputs, SITE).lines()
    assert f"is at line {mine[0]} ({mine[1][:12]})" in why
    assert f"which is at line {stored[0]} ({stored[1][:12]})" in why
    assert "give each an evidence.archive.prefix of its own" in why
    assert intact(second) and receipt(folder)["state"] == "pending"
    # Nothing is lost: the run itself is there, and named as one that the stored ledger doesn't know.
    capsys.readouterr()
    assert status(["verify", machine.location, "--site", str(machine.profile)]) == 1
    assert f"has no entry for the opening of run {RUNS[2]}" in capsys.readouterr().err
    apart = Machine(second.home, store, f"{machine.prefix}-second")
    assert completed(apart, capsys)


@pytest.mark.long
def test_i16_two_machines_on_one_folder_archive_at_once_and_neither_loses(
    machine: Machine, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [f"202610{day:02}T100000Z-00000{day % 10}" for day in range(11, 17)]
    for run_id in runs:
        machine.run(run_id)
    environment = os.environ | {"DRILLBOOK_OUTPUTS": str(machine.outputs)}

    def started(run_id: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", UPLOAD, str(machine.outputs), str(machine.profile), str(machine.folder(run_id))]
        return subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True)

    for pair in zip(runs[::2], runs[1::2], strict=True):
        ended = [(process.communicate()[0].strip(), process.returncode) for process in [started(one) for one in pair]]
        assert ended == [("", 0), ("", 0)]
    assert completed(machine, capsys)
    assert len(store.keys(machine.prefix_of())) == 2 * len(runs)


@pytest.mark.long
def test_i16_two_first_machines_at_once_one_is_refused(machine: Machine, store: Store) -> None:
    """Two outputs folders with ledgers of their own, in two processes: exactly one becomes the site's."""
    second = Machine(machine.home.parent / "second", store, machine.prefix)
    started = []
    for one, run_id in ((machine, RUNS[0]), (second, RUNS[1])):
        one.run(run_id)
        argv = [sys.executable, "-c", UPLOAD, str(one.outputs), str(one.profile), str(one.folder(run_id))]
        started.append(subprocess.Popen(argv, env=os.environ, stdout=subprocess.PIPE, text=True))
    said = sorted(process.communicate()[0].strip() for process in started)
    assert said[0] == "" and "does not go on from the ledger in" in said[1], said
    assert intact(machine) and intact(second)
    assert len(store.versions(f"{machine.prefix}/{SITE}/ledger/0")) == 1


def test_i16_an_outputs_folder_of_yesterday_is_refused_and_nothing_is_overwritten(
    machine: Machine, store: Store
) -> None:
    assert archive_sealed(machine.outputs, machine.site, machine.run(RUNS[0])) == ""
    old = machine.home / "yesterday"
    shutil.copytree(machine.outputs, old)
    assert archive_sealed(machine.outputs, machine.site, machine.run(RUNS[1])) == ""
    before = store.versions(f"{machine.prefix}/{SITE}/ledger/")
    why = archive_sealed(old, machine.site, old / RUNBOOK / RUNS[0])
    assert "does not go on from the ledger in" in why and "put the stored one in its place" in why
    assert store.versions(f"{machine.prefix}/{SITE}/ledger/") == before


def test_i16_a_run_is_archived_before_its_verdict_is_announced_and_a_failing_bucket_is_loud(
    machine: Machine, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """`drillbook finish` of two runs: with the store, and without; the exit status is the verdict's in both."""
    events = verified()
    for event in events:
        if event["type"] == "opened":
            event["parameters"] = {"mode": "apply", "site": str(machine.profile)}
    for run_id, fault, word in ((RUNS[0], {}, ""), (RUNS[1], {"down": True}, "archive pending: ")):
        folder = machine.outputs / RUNBOOK / run_id
        write_journal(
            folder / "journal.jsonl", [e | ({"run_id": run_id} if e["type"] == "opened" else {}) for e in events]
        )
        Ledger.of(machine.outputs, SITE).open(run_id, RUNBOOK)
        notebook = machine.home / "executed.ipynb"
        notebook.write_text(json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
        store.faults(**fault)
        assert status(["finish", run_id, "--notebook", str(notebook)]) == 0
        said = capsys.readouterr()
        assert "VERIFIED" in said.out and said.err == "", said.err
        assert ("archive pending: " in said.out) is bool(word), said.out
        assert receipt(folder)["state"] == ("pending" if word else "archived")
        assert intact(machine)
    status(["list"])
    assert f"{RUNS[1]}: archive pending: " in capsys.readouterr().out
    assert completed(machine, capsys)


def test_i16_what_is_pending_shows_among_what_is_due(
    machine: Machine, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    values = yaml.safe_load(machine.profile.read_text())
    values["schedules"] = [{"runbook": RUNBOOK, "every": "month"}]
    machine.profile.write_text(yaml.safe_dump(values))
    machine.run(RUN_ID)
    asked = ["due", "--site", str(machine.profile), "--at", "2026-11-02T00:00:00Z"]
    assert status(asked) == 2
    assert f"archive pending: {RUN_ID}" in capsys.readouterr().out
    status([*asked, "--prometheus"])
    assert f'drillbook_archive_pending{{site="{SITE}"}} 1' in capsys.readouterr().out
    assert completed(machine, capsys)
    assert status(asked) == 0
    assert "pending" not in capsys.readouterr().out


@pytest.mark.parametrize(("bucket", "ok"), [("evidence", True), ("no-lock", False)])
def test_i16_doctor_says_before_a_run_whether_the_bucket_locks(
    machine: Machine, store: Store, bucket: str, ok: bool
) -> None:
    asked = Machine(machine.home, store, machine.prefix, bucket=bucket)
    (item,) = [one for one in examine(str(asked.profile), asked.outputs) if one.what == "evidence archive"]
    assert item.ok is ok
    assert ("COMPLIANCE for 7 years" in item.found) if ok else ("it has no Object Lock" in item.found)
