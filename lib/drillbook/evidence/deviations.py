"""What deviates in a run, and what became known of it after its seal: the ticket that was opened for it, and the run that retested it.

A sealed record can't be changed, so a ticket and a retest are a line of the site's ledger of their own: chained to all lines before it,
stamped and archived with them. They are never part of a record.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drillbook.evidence.due import SealedRun
from drillbook.evidence.ledger import Ledger
from drillbook.model import Frozen, Instant, Verdict, show_instant, show_seconds

MOST = 500
"""Characters of a ticket, a name or a note."""
_CREDENTIALS = re.compile(r"://[^/\s]*@")


class Noted(Frozen):
    """One line of the ledger about a sealed run; ``retested_by`` and ``note`` may be empty, ``identity`` is the account's strength."""

    run_id: str
    at: Instant
    ticket: str
    retested_by: str = ""
    note: str = ""
    by: str
    account: str = ""
    identity: str = ""
    line: int = 0


@dataclass(frozen=True)
class Wanted:
    """What somebody wants to have noted, as it was typed."""

    ticket: str
    retested_by: str
    note: str
    by: str


class Retest(Frozen):
    """The run that retested another; ``named`` says whether a person named it, or it is only the next VERIFIED one."""

    run_id: str
    named: bool


def deviates(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Everything by which a run was not what it should have been: why it is not VERIFIED, each objective that was missed, each finding."""
    verdict = record["verdict"]
    found = list(verdict["reasons"]) if verdict["verdict"] not in (None, str(Verdict.VERIFIED)) else []
    if not record["objectives"]["enforced"]:  # an enforced one is a reason already
        found += [
            f"{item['name']} was {show_seconds(item['achieved_seconds'])}, its objective is {show_seconds(item['objective_seconds'])}"
            for item in record["objectives"]["measured"]
            if item["met"] is False
        ]
    return tuple(dict.fromkeys([*_together(found), *record["deviations"]["findings"]]))


def _together(reasons: Iterable[str]) -> list[str]:
    """Checks that were not run for one and the same reason, as one line in the place of the first of them."""
    apart: dict[str, list[str]] = {}
    for reason in reasons:
        check, waited, why = reason.partition(": not run: ")
        apart.setdefault(why if waited else reason, []).append(check)
    return [
        f"not run: {', '.join(checks)}: {why.removeprefix('not known: ')}" if checks != [why] else why
        for why, checks in apart.items()
    ]


def noted(ledger: Ledger) -> dict[str, list[Noted]]:
    """What a ledger has noted of each run, oldest first; a line that can't be read as such is left to `verify`."""
    found: dict[str, list[Noted]] = {}
    for number, entry in ledger.numbered():
        if entry.get("kind") != "deviation":
            continue
        try:
            one = _of(entry, number)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        found.setdefault(one.run_id, []).append(one)
    return found


def _of(entry: Mapping[str, Any], number: int) -> Noted:
    actor = entry.get("actor") or {}
    return Noted(
        run_id=entry["run_id"],
        at=entry["at"],
        ticket=entry["ticket"],
        retested_by=entry.get("retested_by") or "",
        note=entry.get("note") or "",
        by=entry["by"],
        account=str(actor.get("username") or ""),
        identity=str(actor.get("strength") or ""),
        line=number,
    )


def retest_of(run: SealedRun, lines: Sequence[Noted], runs: Sequence[SealedRun]) -> Retest | None:
    """The retest that was named last, else the first later VERIFIED run of the same runbook, else None. Pure.

    A run that missed an objective is not retested by one that missed it too. ``runs`` are the sealed runs of the same site, oldest first.
    """
    for one in reversed(lines):
        if one.retested_by:
            return Retest(run_id=one.retested_by, named=True)
    for other in runs:
        later = other.started_at > run.started_at and other.runbook == run.runbook
        if later and other.counts is Verdict.VERIFIED and not {*run.missed} & {*other.missed}:
            return Retest(run_id=other.run_id, named=False)
    return None


def text_faults(wanted: Wanted) -> list[str]:
    """What is wrong with what was typed, whatever run it is about. Pure."""
    typed = (("--ticket", wanted.ticket), ("--note", wanted.note), ("--by", wanted.by))
    found = [
        f"{option} is not one line of at most {MOST} characters"
        for option, text in typed
        if len(text) > MOST or not text.isprintable()
    ]
    found += [
        f"{option} holds an address with credentials in it" for option, text in typed if _CREDENTIALS.search(text)
    ]
    if not wanted.by.strip():
        found.append("--by is not given: who says so is part of the note")
    return found


def faults(
    run: SealedRun, why: Sequence[str], lines: Sequence[Noted], runs: Sequence[SealedRun], wanted: Wanted
) -> list[str]:
    """Everything for which a note is refused, [] if it may be made. Pure.

    ``why`` is what deviates in the run, ``lines`` what is noted of it already, ``runs`` are the site's sealed runs.
    """
    found = text_faults(wanted)
    if not wanted.ticket.strip() and not lines:
        found.append("--ticket is not given, and none is noted of this run yet")
    if lines and not wanted.ticket.strip() and not wanted.retested_by and not wanted.note.strip():
        found.append("there is nothing to note: give --ticket, --retested-by or --note")
    if not why and not lines and not wanted.note.strip():
        found.append(f"run {run.run_id} has no deviation that its record shows: --note must say what deviates")
    return found + (_faults_of_retest(run, runs, wanted.retested_by) if wanted.retested_by else [])


def _faults_of_retest(run: SealedRun, runs: Sequence[SealedRun], named: str) -> list[str]:
    other = named_run(runs, named)
    if other is None:
        many = sum(one.run_id.startswith(named) for one in runs)
        return [
            f"--retested-by {named} " + (f"matches {many} sealed runs" if many else "is no sealed run of this site")
        ]
    found = []
    if other.run_id == run.run_id:
        return [f"--retested-by {other.run_id} is the run itself"]
    if other.runbook != run.runbook:
        found.append(f"--retested-by {other.run_id} is a run of {other.runbook}, not of {run.runbook}")
    if other.started_at <= run.started_at:
        found.append(
            f"--retested-by {other.run_id} began at {show_instant(other.started_at)}, not after {show_instant(run.started_at)}"
        )
    if other.altered:
        found.append(f"--retested-by {other.run_id} is not what was sealed: {other.altered}")
    elif other.verdict is not Verdict.VERIFIED:
        found.append(
            f"--retested-by {other.run_id} is {other.verdict or 'without a verdict'}, only a VERIFIED run is a retest"
        )
    if again := [name for name in other.missed if name in run.missed]:
        found.append(f"--retested-by {other.run_id} missed the same objective: {', '.join(again)}")
    return found


def named_run(runs: Sequence[SealedRun], named: str) -> SealedRun | None:
    """The sealed run with this id, or the only one whose id begins so; None for none or several."""
    found = [one for one in runs if one.run_id == named] or [
        one for one in runs if named and one.run_id.startswith(named)
    ]
    return found[0] if len(found) == 1 else None


__all__ = ["MOST", "Noted", "Retest", "Wanted", "deviates", "faults", "named_run", "noted", "retest_of", "text_faults"]
