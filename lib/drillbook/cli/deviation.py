"""Ticket and retest of a run that was not what it should have been: noted in the ledger after the seal, stamped and archived with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from drillbook.engine import find_run
from drillbook.engine.approval import who
from drillbook.errors import ParameterError, RunbookError
from drillbook.evidence import Journal, Ledger, gates, require_intact, sha256_file, stamp_if_asked, verify
from drillbook.evidence.deviations import Noted, Wanted, deviates, faults, named_run, noted, retest_of, text_faults
from drillbook.evidence.due import SealedRun, runs_of
from drillbook.evidence.seal import JOURNAL, RECORD, SUMS
from drillbook.evidence_store import archive_ledger
from drillbook.kube import Kube
from drillbook.model import show_instant
from drillbook.profile import Site, load_site

PENDING = 2
_WHERE = "drillbook deviation"


def note_deviation(
    console: Console,
    run_id: str,
    *,
    ticket: str,
    retested_by: str,
    note: str,
    by: str,
    site: str,
    kubeconfig: str,
    context: str,
) -> int:
    """Note it, have the ledger stamped and archived where the profile asks for it; the exit status: 2 if either is pending.

    ParameterError with every fault, and nothing noted; EvidenceTampered: the run is not what was sealed; KubernetesError: the
    credentials that were given; EvidenceUnwritable.
    """
    wanted = Wanted(ticket, retested_by, note, by)
    try:
        run_dir = find_run(run_id)
        run, record, ledger, runs = _read(run_dir)
    except ParameterError as error:
        raise ParameterError([*error.faults, *text_faults(wanted)], where=_WHERE, todo=error.todo) from error
    lines = noted(ledger).get(run.run_id, [])
    if found := faults(run, deviates(record), lines, runs, wanted):
        raise ParameterError(found, where=_WHERE, todo="Nothing was noted. Correct them and start again.")
    require_intact(verify(run_dir.parent.parent, run_dir))
    retest = named_run(runs, wanted.retested_by)
    ledger.deviation(
        run.run_id,
        run.runbook,
        record_sha256=sha256_file(run_dir / RECORD),
        ticket=wanted.ticket.strip() or lines[-1].ticket,
        retested_by=retest.run_id if retest else "",
        note=wanted.note.strip(),
        by=wanted.by.strip(),
        actor=_actor(kubeconfig, context),
    )
    _show(console, run, deviates(record), noted(ledger)[run.run_id], runs)
    late = _stamped_and_archived(run_dir, ledger, site)
    for line in late:
        console.print(Text(line, style="bold red"), soft_wrap=True)
    return PENDING if late else 0


def show_deviation(console: Console, run_id: str) -> int:
    """Show what deviates in a sealed run, what was noted of it, and which run retested it; the exit status. ParameterError."""
    run, record, ledger, runs = _read(find_run(run_id))
    _show(console, run, deviates(record), noted(ledger).get(run.run_id, []), runs)
    return 0


def _actor(kubeconfig: str, context: str) -> dict[str, Any]:
    if not (kubeconfig or context):
        return who(None)
    with Kube.open(kubeconfig, context) as kube:
        return who(kube)


def _read(run_dir: Path) -> tuple[SealedRun, dict[str, Any], Ledger, list[SealedRun]]:
    """The run, its record, its site's ledger and that site's sealed runs; ParameterError: it is not sealed, or was a plan."""
    if not (run_dir / SUMS).is_file():
        raise ParameterError(
            [f"run {run_dir.name} is not sealed"],
            where=_WHERE,
            todo="`drillbook finish` or `cleanup` seals it; what deviates in it is said by its record.",
        )
    try:
        record = json.loads((run_dir / RECORD).read_bytes())
        name, mode = str(record["system"]["site"]), record["test"]["mode"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ParameterError(
            [f"the record of run {run_dir.name} can't be read"], where=_WHERE, todo="`drillbook verify` says why."
        ) from error
    outputs = run_dir.parent.parent
    runs = runs_of(outputs, name)
    run = next((one for one in runs if one.run_id == run_dir.name), None)
    if run is None:
        why = "was a plan: it changed nothing, and the ledger has no line about it" if mode == "plan" else "is unknown"
        raise ParameterError([f"run {run_dir.name} {why}"], where=_WHERE, todo="Nothing was noted.")
    return run, record, Ledger.of(outputs, name), runs


def _show(
    console: Console, run: SealedRun, why: Sequence[str], lines: Sequence[Noted], runs: Sequence[SealedRun]
) -> None:
    console.print(Text(f"run       {run.run_id} {run.runbook}: {run.verdict or 'no verdict'}", style="bold"))
    for line in why or ("nothing that its record shows",):
        console.print(Text(f"deviates  {line}"), soft_wrap=True)
    for one in lines:
        who = f"{one.by} ({one.account}, identity: {one.identity})" if one.account else one.by
        said = ", ".join(filter(None, (f"ticket {one.ticket}", one.retested_by and f"retested by {one.retested_by}")))
        more = f": {one.note}" if one.note else ""
        console.print(
            Text(f"noted     {said}, by {who} at {show_instant(one.at)}, ledger line {one.line}{more}"), soft_wrap=True
        )
    if not lines:
        console.print("noted     nothing: --ticket and --by note the ticket that was opened for it")
    found = retest_of(run, lines, runs) if why or lines else None
    if found is not None and not found.named:
        console.print(f"candidate {found.run_id} is the next VERIFIED run of {run.runbook}: --retested-by names it")


def _stamped_and_archived(run_dir: Path, ledger: Ledger, site: str) -> list[str]:
    """As after a run: why the ledger is not stamped or not archived though it should be."""
    try:
        profile = _profile(run_dir, site)
    except RunbookError as error:
        return [f"neither stamped nor archived: {error}. The ledger keeps it; `drillbook archive` does both."]
    if profile.name != ledger.path.stem:
        return [f"neither stamped nor archived: the profile is {profile.name}'s, the run {ledger.path.stem}'s"]
    return list(
        filter(None, (stamp_if_asked(ledger, profile.evidence), archive_ledger(run_dir.parent.parent, profile)))
    )


def _profile(run_dir: Path, site: str) -> Site:
    opened = gates.opening(Journal(run_dir / JOURNAL).events()) or {}
    return load_site(site or str((opened.get("parameters") or {}).get("site") or ""))


__all__ = ["note_deviation", "show_deviation"]
