"""The auditor's folder: one page, the population as a table, and each run as an archive that verifies without Drillbook."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from drillbook.errors import EvidenceError, ParameterError
from drillbook.evidence import Ledger
from drillbook.evidence.archive import archive, lines_by_run
from drillbook.evidence.population import as_csv, population
from drillbook.evidence.seal import RECORD
from drillbook.evidence.trust import Trust
from drillbook.evidence.writing import write_whole
from drillbook.profile import load_site
from drillbook.report import summary


def write_evidence(
    console: Console,
    outputs: Path,
    site: str,
    to: Path,
    *,
    begins: datetime,
    ends: datetime,
    trust: Trust | None,
) -> int:
    """Write ``summary.html``, ``population.csv`` and ``runs/`` into the folder ``to``; the exit status: 1 if something was altered.

    ParameterError: the period is none, or the folder is not empty. EvidenceUnwritable.
    """
    profile = load_site(site)
    faults = [] if begins < ends else [f"--from {begins} is not before --to {ends}"]
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        faults.append(f"--out {to} is there and not empty: what an auditor gets is never mixed with something else")
    if faults:
        raise ParameterError(faults, where="drillbook evidence", todo="Nothing was written.")
    found = population(outputs, profile.name, profile.schedules, begins, ends, datetime.now(UTC), trust=trust)
    ledger = Ledger.of(outputs, profile.name)
    lines = lines_by_run(ledger)
    not_tested: dict[str, None] = {}
    kept = 0
    for one in found.entries:
        folder = outputs / one.runbook / one.run_id
        if not one.run_id or not folder.is_dir():
            continue
        try:
            data = archive(folder, lines)
        except EvidenceError:
            continue  # never sealed: its row says so
        write_whole(to / "runs" / f"{one.run_id}.tar", data, 0o644)
        kept += 1
        try:
            not_tested |= dict.fromkeys(json.loads((folder / RECORD).read_bytes())["not_tested"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # its row says what is wrong with it
    keys = [f"{key.keyid[:12]} of {key.owner}" for key in trust.keys] if trust else []
    said = (
        f"Signatures that count are those of {'; '.join(keys)}."
        if keys
        else "No trust file was given: signatures were not looked at."
    )
    page = summary.html(found, not_tested=list(not_tested), controls=profile.controls, trust=said)
    write_whole(to / "population.csv", as_csv(found.entries).encode(), 0o644)
    if ledger.path.exists():
        write_whole(to / "ledger.jsonl", ledger.path.read_bytes(), 0o644)
    for key in trust.keys if trust else ():
        write_whole(to / f"evidence-{key.keyid[:12]}.pub.pem", key.public.encode(), 0o644)
    write_whole(to / "summary.html", page.encode(), 0o644)  # last: a folder with it is whole
    altered = [one for one in found.entries if one.altered]
    console.print(f"written   {to / 'summary.html'}, population.csv with {len(found.entries)} rows, {kept} archives")
    for one in altered:
        console.print(f"altered   {one.run_id or one.runbook}: {one.altered}", style="red")
    return 1 if altered else 0


__all__ = ["write_evidence"]
