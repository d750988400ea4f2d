"""Closing a run whatever became of its kernel: what it promised is undone, how it ended is noted, then it is sealed.

A cell can't seal the notebook it is in, and after a kernel's death nothing runs in it any more: so what is left is
settled here, and executed notebook, page, report and sums are added here. A run that waits at a gate, or that stopped
midway in a runbook which can be resumed, is left as it is instead.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drillbook import kube as k8s
from drillbook.cli.headless.page import write_page
from drillbook.engine import LEASE_SECONDS, lease_name, require_ended
from drillbook.engine import undo as restoring
from drillbook.engine.alive import alive
from drillbook.engine.cluster_lock import note_waiting
from drillbook.errors import Changed, EvidenceUnwritable, ParameterError, RunbookError, RunInProgress
from drillbook.evidence import (
    Journal,
    Ledger,
    Masker,
    gates,
    judge,
    notebook_digest,
    seal,
    sha256_file,
    sign_if_asked,
    stamp_if_asked,
)
from drillbook.evidence.facts import facts
from drillbook.evidence.judge import unsettled
from drillbook.evidence_store import archive_sealed
from drillbook.manifests import cleanup as removal
from drillbook.model import Verdict
from drillbook.profile import Site, load_site
from drillbook.report.page import render

Progress = Callable[[dict[str, Any]], None]
WAITING = 3
REFUSED = 4
STOPPED_MIDWAY = 6
BUG = 70
INTERRUPTED = ("kernel died", "timeout", "interrupted", "killed")


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended. ``verdict`` is None for a plan and for a refusal."""

    run_id: str
    folder: Path
    verdict: str | None
    exit_code: int
    headline: str
    unsigned: str = ""  # why it is not signed or has no time stamp, though the profile says that it must
    pending: str = ""  # why it is not archived yet, though the profile names a bucket


def events_of(folder: Path) -> list[dict[str, Any]]:
    """A run's journal."""
    return Journal(folder / "journal.jsonl").events()


def notebook_name(events: Sequence[gates.Event]) -> str:
    """The executed notebook of the attempt that wrote last: ``executed.ipynb``, ``executed-2.ipynb`` …"""
    number = gates.attempt(events)
    return "executed.ipynb" if number == 1 else f"executed-{number}.ipynb"


def end_attempt(folder: Path, *, how: str, message: str, progress: Progress = lambda _: None) -> RunOutcome:
    """What to do once the kernel has ended: settle the run, or leave it as it is to be resumed."""
    events = events_of(folder)
    if not gates.resumable(events):
        return settle(folder, how=how, message=message, by="runner", progress=progress)
    since = _of_this_attempt(events)
    waits = "waiting" in since[-1:]
    # A resumed run that was refused before it did anything, or at a step that touched nothing, is where it stood.
    ends = [event["status"] for event in events[len(events) - len(since) :] if event["type"] == "step_finished"]
    began = {"step_started", "waiting"} & set(since) and ends != ["refused"]
    refused = gates.attempt(events) > 1 and how == "error" and not began
    passed = gates.point_of_no_return(events)
    halted = "stopped_midway" in since
    if not (waits or refused or passed or halted or how in INTERRUPTED):
        return settle(folder, how=how, message=message, by="runner", progress=progress)
    open_again(folder, by="runner", progress=progress)
    _note_attempt(Journal.open(folder / "journal.jsonl"), folder, events, "waiting" if waits else how, message)
    _give_lease_back(folder)
    render(folder)
    write_page(folder / notebook_name(events))
    return refusal(folder, message) if refused else left_standing(folder)


def _of_this_attempt(events: Sequence[gates.Event]) -> list[str]:
    """The types of the events since the attempt began that wrote last; how an attempt ended is no part of it."""
    last = max((i for i, event in enumerate(events) if event["type"] in ("opened", "resumed")), default=0)
    return [event["type"] for event in events[last + 1 :] if event["type"] not in ("attempt", "approved")]


def left_standing(folder: Path) -> RunOutcome:
    """The outcome of a run that waits or stopped midway."""
    events = events_of(folder)
    run_id, gate, until = str(events[0]["run_id"]), gates.waiting(events), gates.deadline(events)
    kept = f"What it made is kept until {until:%Y-%m-%d %H:%M} UTC." if until else ""
    if gate is not None:
        ways = (
            f'`drillbook resume {run_id} --confirm "{gate["phrase"]}"`, or `drillbook approve` and `drillbook resume`'
        )
        said = f"Waiting for a confirmation of {gate['section']!r}: {gate['reason']}. Give it by {ways}. {kept}"
        return RunOutcome(run_id, folder, None, WAITING, said)
    why = next((f": {event['why']}" for event in reversed(events) if event["type"] == "stopped_midway"), "")
    said = f"Stopped midway{why}. `drillbook resume {run_id}` goes on, `drillbook abandon {run_id}` undoes. {kept}"
    if passed := gates.point_of_no_return(events):
        said = (
            f"Stopped midway{why}. Nothing was put back or removed since {passed!r} began. `drillbook resume {run_id}` goes on "
            f"from there; `drillbook undo {run_id}` goes back, after it has shown what was written since."
        )
    return RunOutcome(run_id, folder, None, STOPPED_MIDWAY, said)


def refusal(folder: Path, message: str) -> RunOutcome:
    """The outcome of a resumption that was refused: nothing was touched, and the run is where it stood."""
    return RunOutcome(folder.name, folder, None, REFUSED, f"Not resumed, and nothing was changed: {message}")


def settle(folder: Path, *, how: str, message: str, by: str, progress: Progress = lambda _: None) -> RunOutcome:
    """Undo what the run left, journal how it ended, add page and report, seal; safe to repeat.

    Undoing goes on where nothing can be written. EvidenceUnwritable afterwards: the run is not sealed yet.
    """
    opened = opening_of(folder)
    try:
        if not (folder / "SHA256SUMS").exists():
            _add_the_end(folder, opened, how, message, by, progress)
        ledger = Ledger.of(folder.parent.parent, opened["site"]["name"]) if opened["mode"] == "apply" else None
        seal(folder, ledger)
        unsigned, pending = _signed_and_archived(folder, opened, ledger) if ledger else ("", "")
    except (EvidenceUnwritable, OSError) as error:
        raise _unsealed(folder, opened, error) from error
    events = events_of(folder)
    found = judge(events)
    verdict = None if found.verdict is None else str(found.verdict)
    return RunOutcome(opened["run_id"], folder, verdict, exit_code(events, how), found.headline, unsigned, pending)


def _signed_and_archived(folder: Path, opened: dict[str, Any], ledger: Ledger) -> tuple[str, str]:
    """Sign the sealed run and lock it away, as its profile says, before its verdict is announced; why either is not done."""
    try:
        site = load_site(opened["parameters"]["site"])
    except RunbookError:
        return "", ""  # a run whose profile is gone is settled all the same; `drillbook verify` names what is missing
    late = [sign_if_asked(folder, ledger, site.evidence), stamp_if_asked(ledger, site.evidence)]
    return "\n".join(filter(None, late)), archive_sealed(folder.parent.parent, site, folder)


def opening_of(folder: Path) -> dict[str, Any]:
    """The event that opened the run; ParameterError for one that ended before it began."""
    opened = gates.opening(events_of(folder))
    if opened is None:
        raise ParameterError(
            [f"run {folder.name} ended before it began: its journal says nothing, and nothing was touched"],
            where="run",
            todo=f"{folder} may be deleted.",
        )
    return dict(opened)


def _unsealed(folder: Path, opened: dict[str, Any], error: Exception) -> EvidenceUnwritable:
    """What to say of a run that was settled without evidence."""
    journal = Journal(folder / "journal.jsonl")
    where = f"; what was undone is noted in {journal.second_place}" if journal.second_place.exists() else ""
    acted = opened["mode"] == "apply"
    found = EvidenceUnwritable(
        f"run {folder.name} is settled but not sealed: {error}{where}",
        changed=Changed.DONE if acted else Changed.NOTHING,
        todo="Make room, then `drillbook cleanup` looks at every promise once more and seals the run.",
    )
    if acted:
        found.exit_code = EvidenceUnwritable.MIDWAY  # type: ignore[misc]
    return found


def _add_the_end(folder: Path, opened: dict[str, Any], how: str, message: str, by: str, progress: Progress) -> None:
    masker = Masker()
    # Not opened: what can't be written must not stop the undoing.
    journal = Journal(folder / "journal.jsonl", masker)
    events = journal.events()
    closed = any(event["type"] == "closed" for event in events)
    if opened["mode"] == "apply" and (unsettled(events) or not closed) and not gates.point_of_no_return(events):
        undo(journal, opened, masker, by=by, progress=progress)
    elif opened["mode"] == "apply":
        open_again(folder, by=by, progress=progress)
    name = notebook_name(events)
    _note_attempt(journal, folder, events, how, message)
    if not closed:
        judged = judge(journal.events())
        if judged.outcome == "waiting":  # nobody confirmed it in time: the end says so, and the verdict follows
            journal.append("closed", verdict="UNPROVEN", reasons=[judged.headline], by=by)
        else:
            journal.append("closed", verdict=judged.verdict, reasons=judged.reasons, by=by)
        if opened["mode"] == "apply":
            Ledger.of(folder.parent.parent, opened["site"]["name"]).bind(journal)
    write_page(folder / name)
    render(folder)


def _note_attempt(journal: Journal, folder: Path, events: Sequence[gates.Event], how: str, message: str) -> None:
    name = notebook_name(events)
    path = folder / name
    digests = {"sha256": sha256_file(path), "notebook_sha256": notebook_digest(path)} if path.is_file() else {}
    journal.append("attempt", n=gates.attempt(events), notebook=name, how=how, error=message, **digests)


def undo(
    journal: Journal, opened: dict[str, Any], masker: Masker, *, by: str, progress: Progress, only: str = ""
) -> None:
    """Undo what a run promised to undo (``only`` of one kind), the newest first, and give its Lease back.

    What can't be undone stays an open obligation, with the reason as a fact: `drillbook cleanup` tries again.
    """
    run_id = opened["run_id"]
    try:
        site = load_site(opened["parameters"]["site"])
        with k8s.Kube.open(site.kubernetes.kubeconfig, site.kubernetes.context, mask=masker.register) as kube:
            require_ended(kube, site, journal.events())
            trouble = _put_back(kube, site, journal, run_id, by, progress, only)
            if not only:
                _remove_copy(kube, site, journal, run_id, by, progress)
            _release(kube, site, run_id)
            note_waiting(kube, site, run_id, "")
    except RunbookError as error:
        trouble = ["; ".join(error.lines())]
    if trouble:
        progress(journal.note("fact", name="cleanup_failed", value=" | ".join(trouble)))


def open_again(folder: Path, *, by: str, progress: Progress = lambda _: None) -> None:
    """Open what a cut has closed and was not seen to open: that undoes no cut, and behind one as well nobody stays locked out."""
    journal = Journal(folder / "journal.jsonl", masker := Masker())
    if any(event["kind"] == restoring.CLOSED for event in unsettled(journal.events())):
        undo(journal, opening_of(folder), masker, by=by, progress=progress, only=restoring.CLOSED)


def _put_back(
    kube: k8s.Kube, site: Site, journal: Journal, run_id: str, by: str, progress: Progress, only: str
) -> list[str]:
    """Put back old values; what can't be is answered in words. Nothing is touched while another run holds the Lease."""
    promises = [
        event for event in reversed(unsettled(journal.events())) if event.get("undo") and only in ("", event["kind"])
    ]
    if not promises:
        return []
    try:
        lease = kube.lease(site.drillbook_namespace, lease_name(site), run_id, ttl_seconds=LEASE_SECONDS)
    except RunInProgress as error:
        return [f"not put back, because another run holds the lock: {error.what}"]
    trouble: list[str] = []
    replaced = facts(journal.events()).replaced or ""
    with lease:
        for promise in promises:
            try:
                lease.ensure_held()
                restoring.require_agreed(kube, promise["undo"], replaced)
                how, proof = restoring.put_back(kube, promise["undo"])
            except RunbookError as error:
                trouble.append(f"{promise['id']} ({promise['what']}): {error.what}")
                continue
            progress(journal.note("settled", id=promise["id"], how=f"{how} by {_name(by)}", proof=proof))
    return trouble


def _remove_copy(kube: k8s.Kube, site: Site, journal: Journal, run_id: str, by: str, progress: Progress) -> None:
    """Remove by label what a dead or failed notebook left in the drill namespace."""
    left = [event for event in unsettled(journal.events()) if _is_ours(event, site)]
    if not left:
        return
    seconds = site.limits.step.total_seconds()
    for item in removal.remove_run(kube, site.drill_namespace, run_id, timeout_seconds=seconds):
        progress(journal.note("settled", id=item.id, how=f"removed by {_name(by)}", proof=item.proof))
    for promise in (event for event in unsettled(journal.events()) if _is_ours(event, site)):
        proof = "not found by this run's label"
        progress(journal.note("settled", id=promise["id"], how=f"removed by {_name(by)}", proof=proof))


def _is_ours(promise: gates.Event, site: Site) -> bool:
    return not promise.get("undo") and promise["namespace"] == site.drill_namespace


def _name(by: str) -> str:
    return {"runner": "the runner", "abandon": "abandon", "cleanup": "cleanup"}.get(by, by)


def _release(kube: k8s.Kube, site: Site, run_id: str) -> None:
    name = lease_name(site)
    held = kube.get(k8s.LEASE, site.drillbook_namespace, name)
    if held is not None and held["spec"].get("holderIdentity") == run_id:
        # The holder is dead: taking the Lease under its name and giving it back spares the next run the wait.
        kube.lease(site.drillbook_namespace, name, run_id, ttl_seconds=LEASE_SECONDS).release()


def _give_lease_back(folder: Path) -> None:
    """Let other runs have the cluster; what this one made is kept until its deadline, on other machines too."""
    opened = opening_of(folder)
    try:
        site = load_site(opened["parameters"]["site"])
        with k8s.Kube.open(site.kubernetes.kubeconfig, site.kubernetes.context) as kube:
            if (until := gates.deadline(events_of(folder))) is not None:
                removal.keep_until(kube, site.drill_namespace, opened["run_id"], until)
            _release(kube, site, opened["run_id"])
    except RunbookError:
        return  # it expires by itself


def exit_code(events: Sequence[gates.Event], how: str) -> int:
    """The command line's status for a run's journal and the way its notebook ended."""
    found = judge(events)
    events = gates.current(events)
    errors = [event["error"] for event in events if event["type"] == "step_finished" and event.get("error")]
    codes = [int(error.get("exit_code", 2)) for error in errors]
    if BUG in codes:
        return BUG
    if found.outcome == "planned":
        return 0 if how in ("completed", "finished later") else STOPPED_MIDWAY
    if found.verdict is None:
        return codes[-1] if codes else STOPPED_MIDWAY
    if found.verdict is Verdict.VERIFIED:
        return 0
    if found.verdict is Verdict.FAILED:
        return 1
    return STOPPED_MIDWAY if how in INTERRUPTED else 2


def finish(folder: Path, notebook: Path) -> RunOutcome:
    """Close a run that plain papermill or JupyterLab executed: take in its notebook, settle, add pages, seal."""
    if alive(folder):
        raise ParameterError(
            [f"run {folder.name} is still open in a running kernel"],
            where="finish",
            todo="Run its last cell, or shut its kernel down.",
        )
    if not notebook.is_file():
        raise ParameterError([f"there is no notebook {notebook}"], where="finish")
    opening_of(folder)
    events = events_of(folder)
    for event in [event for event in events if event["type"] == "superseded"]:
        fault = f"run {folder.name} was superseded by run {event['by']} and is sealed already"
        raise ParameterError([fault], where="finish", todo=f"Finish run {event['by']}.")
    if notebook.resolve() != (folder / notebook_name(events)).resolve():
        shutil.copyfile(notebook, folder / notebook_name(events))
    closed = any(event["type"] == "closed" for event in events)
    if not closed and gates.resumable(events):
        raise ParameterError(
            [f"run {folder.name} has not ended"],
            where="finish",
            todo=f"`drillbook resume {folder.name}` goes on, `drillbook abandon {folder.name}` undoes what it left.",
        )
    how = "finished later" if closed else "error"
    return settle(folder, how=how, message="" if closed else "the notebook did not reach its last cell", by="runner")
