"""Every test of a site in a period: planned, run, aborted, unscheduled and repeated ones, from ledger and records alone.

An auditor draws a sample from the whole population, so nothing is left out: a run that was opened and never sealed, one whose
folder is gone, and a period in which nothing ran each have a row of their own. A run that was not what it should have been has its
ticket and its retest from the ledger, where they were noted after its seal.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drillbook.evidence.deviations import Noted, deviates, noted, retest_of
from drillbook.evidence.due import Due, SealedRun, State, due, runs_of
from drillbook.evidence.ledger import Ledger
from drillbook.evidence.seal import ATTESTED, RECORD, SUMS
from drillbook.evidence.verify import verify
from drillbook.model import Frozen, Instant, parse_instant, show_instant
from drillbook.profile.schema import Schedule

if TYPE_CHECKING:
    from drillbook.evidence.trust import Trust

COLUMNS = (
    "run_id",
    "runbook",
    "state",
    "planned",
    "period",
    "verdict",
    "opened_at",
    "finished_at",
    "asked_by",
    "ticket",
    "identity",
    "approved_by",
    "recovery_seconds",
    "recovery_objective_seconds",
    "recovery_point_seconds",
    "recovery_point_objective_seconds",
    "cause",
    "deviations",
    "deviation_ticket",
    "deviation_by",
    "deviation_note",
    "retested_by",
    "retest",
    "record_sha256",
    "signed",
    "evidence",
)


class Entry(Frozen):
    """One row: a run, or a period without one. ``nth``: which run of its schedule's period it is, from 1; 0: of none."""

    run_id: str = ""
    runbook: str
    state: str
    period: str = ""
    nth: int = 0
    verdict: str = ""
    opened_at: Instant | None = None
    finished_at: Instant | None = None
    asked_by: str = ""
    ticket: str = ""
    identity: str = ""
    approved_by: str = ""
    measured: tuple[tuple[str, float | None, float | None, bool | None], ...] = ()  # name, achieved, objective, met
    backup_bytes: int | None = None
    forecast_off: float | None = None  # of the recovery time: (forecast - achieved) / achieved
    cause: str = ""
    deviates: tuple[str, ...] = ()
    noted: tuple[Noted, ...] = ()  # after the seal, oldest first
    retested_by: str = ""
    retest: str = ""  # "named" by a person, or only the "candidate" that comes next
    record_sha256: str = ""
    signed: bool = False
    altered: str = ""

    @property
    def planned(self) -> str:
        """Whether a schedule asked for it."""
        if not self.period:
            return "unscheduled"
        return "repeated" if self.nth > 1 else "planned"

    @property
    def evidence(self) -> str:
        """What `verify` says of it."""
        return self.altered or ("intact" if self.state == "sealed" else "")

    @property
    def deviation_ticket(self) -> str:
        """The ticket that was noted last, "" for none."""
        return next((one.ticket for one in reversed(self.noted) if one.ticket), "")

    @property
    def deviation_note(self) -> str:
        """Every note, oldest first."""
        return "; ".join(one.note for one in self.noted if one.note)

    @property
    def deviation_by(self) -> str:
        """Who noted ticket and retest: the name as it was typed, with the account."""
        return ", ".join(dict.fromkeys(f"{one.by} ({one.account})" if one.account else one.by for one in self.noted))

    def figure(self, name: str) -> tuple[float | None, float | None]:
        """Achieved and objective, in seconds; None for what was not measured."""
        return next(((achieved, wanted) for known, achieved, wanted, _ in self.measured if known == name), (None, None))


class Population(Frozen):
    """The whole of it, with what was due."""

    site: str
    begins: Instant
    ends: Instant
    entries: tuple[Entry, ...]
    due: tuple[Due, ...]
    head_sha256: str  # of the ledger's last line
    lines: int


def population(
    outputs: Path,
    site: str,
    schedules: Sequence[Schedule],
    begins: datetime,
    ends: datetime,
    now: datetime,
    *,
    trust: Trust | None = None,
) -> Population:
    """Every test of ``site`` that began, or was due, from ``begins`` until ``ends``. Reads only."""
    ledger = Ledger.of(outputs, site)
    seals = {entry["run_id"]: entry for entry in ledger.entries() if entry.get("kind") == "seal"}
    opens = [entry for entry in ledger.entries() if entry.get("kind") == "open"]
    altered = [str(one) for one in verify(outputs, trust=trust) if one.tampered]
    runs = runs_of(outputs, site, trust)
    owed = [item for item in due(schedules, runs, min(ends, now)) if item.ends > begins and item.begins < ends]
    found, later = [], noted(ledger)
    for entry in opens:
        run = _entry(outputs, entry, seals.get(entry["run_id"]), altered)
        run = _retested(run, later.get(run.run_id, ()), runs)
        if run.opened_at and begins <= run.opened_at < ends:
            found.append(run)
    placed = [(run.opened_at or begins, _placed(run, owed, runs)) for run in found]
    placed += [
        (item.begins, Entry(runbook=item.runbook, state=str(item.state), period=_period(item), nth=1))
        for item in owed
        if not item.runs and item.state is not State.WAITING
    ]
    placed.sort(key=lambda pair: (pair[0], pair[1].runbook))
    lines = ledger.lines()
    return Population(
        site=site,
        begins=begins,
        ends=ends,
        entries=tuple(entry for _, entry in placed),
        due=tuple(owed),
        head_sha256=lines[1],
        lines=lines[0],
    )


def as_csv(entries: Iterable[Entry]) -> str:
    """The rows for a spreadsheet; a text that one would take for a formula is quoted."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in entries:
        recovery, point = one.figure("recovery time"), one.figure("recovery point")
        cells = (
            one.run_id,
            one.runbook,
            one.state,
            one.planned,
            one.period,
            one.verdict,
            show_instant(one.opened_at) if one.opened_at else "",
            show_instant(one.finished_at) if one.finished_at else "",
            one.asked_by,
            one.ticket,
            one.identity,
            one.approved_by,
            *("" if value is None else f"{value:.1f}" for value in (*recovery, *point)),
            one.cause,
            "; ".join(one.deviates),
            one.deviation_ticket,
            one.deviation_by,
            one.deviation_note,
            one.retested_by,
            one.retest,
            one.record_sha256,
            "yes" if one.signed else "no",
            one.evidence,
        )
        writer.writerow([f"'{cell}" if cell[:1] in "=+-@\t\r" and cell else cell for cell in cells])
    return out.getvalue()


def _entry(outputs: Path, opened: Mapping[str, Any], sealed: Mapping[str, Any] | None, altered: Sequence[str]) -> Entry:
    run_id, runbook = str(opened["run_id"]), str(opened["runbook"])
    folder = outputs / runbook / run_id
    known: dict[str, Any] = {"run_id": run_id, "runbook": runbook, "opened_at": opened["at"]}
    wrong = next((words for words in altered if run_id in words), "")
    if not folder.is_dir():
        return Entry(**known, state="missing folder", altered=wrong or "its folder is missing")
    if sealed is None or not (folder / SUMS).exists():
        return Entry(**known, state="never sealed", altered=wrong)
    known |= {"state": "sealed", "verdict": sealed.get("verdict") or "none", "altered": wrong}
    known |= {"record_sha256": str(sealed["record_sha256"])}
    known |= {"signed": (folder / f"{ATTESTED[0]}.dsse.json").exists()}
    try:
        record = json.loads((folder / RECORD).read_bytes())
        return Entry(**known | _of_record(record))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Entry(**known | {"altered": wrong or "its record can't be read"})


def _of_record(record: Mapping[str, Any]) -> dict[str, Any]:
    who, verdict = record["who"], record["verdict"]
    approvers = [
        _person(approval["actor"]) for gate in who["approver"] or () for approval in gate.get("approvals") or ()
    ]
    requester = who.get("requester") or {}
    return {
        "opened_at": parse_instant(record["when"]["started_at"]),
        "finished_at": record["when"]["finished_at"],
        "asked_by": _person((who["actor"] or {}) | {"name": requester.get("name")}),
        "ticket": str(requester.get("ticket") or ""),
        "identity": str((who["actor"] or {}).get("strength", "")),
        "approved_by": ", ".join(name for name in dict.fromkeys(approvers) if name),
        "measured": tuple(
            (item["name"], item["achieved_seconds"], item["objective_seconds"], item["met"])
            for item in record["objectives"]["measured"]
        ),
        "backup_bytes": (record["backup"] or {}).get("size_bytes"),
        "forecast_off": next(
            (
                row["off"]
                for row in (record.get("forecast") or {}).get("compared", ())
                if row["name"] == "recovery time"
            ),
            None,
        ),
        "cause": (verdict["reasons"] or [""])[0],
        "deviates": deviates(record),
    }


def _retested(run: Entry, lines: Sequence[Noted], runs: Sequence[SealedRun]) -> Entry:
    """With what was noted of it, and the run that retested it."""
    sealed = next((one for one in runs if one.run_id == run.run_id), None)
    if sealed is None or not (run.deviates or lines):
        return run.model_copy(update={"noted": tuple(lines)})
    found = retest_of(sealed, lines, runs)
    retest = {"retested_by": found.run_id, "retest": "named" if found.named else "candidate"} if found else {}
    return run.model_copy(update={"noted": tuple(lines)} | retest)


def _person(actor: Mapping[str, Any]) -> str:
    """A person by name with the identity that the API server knows, or that identity alone."""
    identity, name = str(actor.get("username") or ""), str(actor.get("name") or "")
    return f"{name} ({identity})" if name and identity else name or identity


def _placed(run: Entry, owed: Sequence[Due], runs: Sequence[SealedRun]) -> Entry:
    """With the period that it belongs to, and which run of that period it is."""
    at = run.opened_at
    mine = next((item for item in owed if at and item.runbook == run.runbook and item.begins <= at < item.ends), None)
    if mine is None or at is None:
        return run
    before = [one for one in runs if one.runbook == run.runbook and mine.begins <= one.started_at < at]
    return run.model_copy(update={"period": _period(mine), "nth": 1 + len(before)})


def _period(item: Due) -> str:
    return f"{item.every} from {item.begins:%Y-%m-%d %H:%M}"


__all__ = ["COLUMNS", "Entry", "Population", "as_csv", "population"]
