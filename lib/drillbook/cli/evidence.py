"""The auditor's folder: one page, the population as a table, and each run as an archive that verifies without Drillbook."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from drillbook.errors import EvidenceError, ParameterError
from drillbook.evidence import Ledger
from drillbook.evidence.archive import archive, lines_by_run
from drillbook.evidence.population import Population, as_csv, population
from drillbook.evidence.seal import RECORD
from drillbook.evidence.trust import Trust
from drillbook.evidence.writing import write_whole
from drillbook.profile import load_site
from drillbook.report import summary
from drillbook.report.page import REPORT


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
    page = summary.html(
        found, not_tested=_not_tested(outputs, found), controls=profile.controls, trust=_whose_count(trust)
    )
    write_whole(to / "population.csv", as_csv(found.entries).encode(), 0o644)
    if ledger.path.exists():
        write_whole(to / "ledger.jsonl", ledger.path.read_bytes(), 0o644)
    for key in trust.keys if trust else ():
        write_whole(to / f"evidence-{key.keyid[:12]}.pub.pem", key.public.encode(), 0o644)
    write_whole(to / "summary.html", page.encode(), 0o644)  # last: a folder with it is whole
    console.print(f"written   {to / 'summary.html'}, population.csv with {len(found.entries)} rows, {kept} archives")
    return _altered(console, found)


def write_index(console: Console, outputs: Path, site: str, *, trust: Trust | None) -> int:
    """Write ``index.html`` over every run of the site into ``outputs``; the exit status: 1 if something was altered.

    EvidenceUnwritable.
    """
    profile, now = load_site(site), datetime.now(UTC)
    whole = population(
        outputs, profile.name, profile.schedules, datetime(1970, 1, 1, tzinfo=UTC), now, now, trust=trust
    )
    began = [one.opened_at for one in whole.entries if one.opened_at] + [item.begins for item in whole.due]
    found = whole.model_copy(update={"begins": min([*began, now])})
    links = {
        one.run_id: f"{one.runbook}/{one.run_id}/{REPORT}"
        for one in found.entries
        if one.run_id and (outputs / one.runbook / one.run_id / REPORT).is_file()
    }
    page = summary.html(
        found,
        not_tested=_not_tested(outputs, found),
        controls=profile.controls,
        trust=_whose_count(trust),
        links=links,
    )
    path = outputs / "index.html"
    write_whole(path, page.encode(), 0o644)
    console.print(f"written   {path}, {len(links)} reports")
    return _altered(console, found)


def _not_tested(outputs: Path, found: Population) -> list[str]:
    """What the runs say that they did not test, each once. A record that can't be read is named in its run's row."""
    lines: dict[str, None] = {}
    for one in found.entries:
        try:
            lines |= dict.fromkeys(json.loads((outputs / one.runbook / one.run_id / RECORD).read_bytes())["not_tested"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return list(lines)


def _whose_count(trust: Trust | None) -> str:
    keys = [f"{key.keyid[:12]} of {key.owner}" for key in trust.keys] if trust else []
    if not keys:
        return "No trust file was given: signatures were not looked at."
    return f"Signatures that count are those of {'; '.join(keys)}."


def _altered(console: Console, found: Population) -> int:
    altered = [one for one in found.entries if one.altered]
    for one in altered:
        console.print(f"altered   {one.run_id or one.runbook}: {one.altered}", style="red")
    return 1 if altered else 0


__all__ = ["write_evidence", "write_index"]
