"""Runs of a cluster that wait at a gate or stopped midway, and what they hold: no second run starts blindly next to them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drillbook.engine import run_folders
from drillbook.engine.alive import alive
from drillbook.engine.kinds import kind_of
from drillbook.errors import Changed, RunInProgress
from drillbook.evidence import Journal, gates
from drillbook.evidence.journal import changed_so_far
from drillbook.evidence.judge import of_type, unsettled
from drillbook.profile import Site

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Standing:
    """A run that has not ended: where it stands, since when, and what it has promised to undo and not undone yet."""

    run_id: str
    runbook: str
    where: str
    holds: tuple[str, ...]
    living: bool

    def __str__(self) -> str:
        holds = "; ".join(self.holds) or "nothing that has to be undone"
        return f"run {self.run_id} ({self.runbook}) {self.where} and holds: {holds}"


def of(folder: Path, events: Sequence[Event]) -> Standing:
    """The state of a run by its journal."""
    gate, living = gates.waiting(events), alive(folder)
    if gate is not None:
        sections = list(dict.fromkeys(str(event["section"]) for event in of_type(events, "waiting")))
        where = f"waits at gate {sections.index(str(gate['section'])) + 1} ({gate['section']}) since {_clock(gate)}"
    else:
        step = _last_begun(events)
        at = f" at step {step['n']} ({step['title']})" if step else ""
        where = f"{'is open in a kernel' if living else 'stopped midway'}{at}, last heard of {_clock(events[-1])},"
    holds = tuple(f"{event['id']} ({event['what']})" for event in unsettled(events))
    return Standing(str(events[0]["run_id"]), str(events[0]["runbook"]), where, holds, living)


def _last_begun(events: Sequence[Event]) -> Event | None:
    """The step at which a run is: cells behind it that were run and did nothing are not meant."""
    before = at = None
    for event in events:
        if event["type"] == "step_started":
            before, at = at, event
        elif event["type"] == "step_finished" and event["status"] == "not run":
            at = before
    return at


def _clock(event: Event) -> str:
    at = str(event["at"])
    return f"{at[:10]} {at[11:16]} UTC"


def has_changed(events: Sequence[Event]) -> bool:
    """Whether the run has changed anything, or may have."""
    return bool(of_type(events, "obligation")) or changed_so_far(events) is not Changed.NOTHING


def standing(site: Site) -> list[Standing]:
    """The runs of this cluster in this outputs folder that are left as they are and have changed something."""
    cluster = {"namespace": site.cluster.namespace, "name": site.cluster.name}
    found = []
    for folder in run_folders.run_dirs():
        if (folder / "SHA256SUMS").exists():
            continue
        events = Journal(folder / "journal.jsonl").events()
        if events and events[0].get("cluster") == cluster and gates.resumable(events) and has_changed(events):
            found.append(of(folder, events))
    return found


def require_none(site: Site, runbook: str, mine: Collection[str]) -> None:
    """Raise RunInProgress, naming what each holds and the ways on, if a run of this cluster stands; ``mine`` don't count.

    A runbook that only reads may go on next to them.
    """
    if kind_of(runbook).alone:
        require_none_stands(site, mine)


def require_none_stands(site: Site, mine: Collection[str]) -> None:
    """Raise RunInProgress as :func:`require_none` does, for a runbook that reads and is about to change something."""
    found = [one for one in standing(site) if one.run_id not in mine]
    if found:
        raise RunInProgress(
            "; ".join(str(one) for one in found).replace("run ", "Run ", 1),
            todo=ways(found[0].run_id, living=found[0].living),
        )


def ways(run_id: str, *, living: bool = False) -> str:
    """How to go on with a run that stands, and how to end it."""
    there = "It is open in another kernel: go on there, or shut that kernel down first. " if living else ""
    return (
        f"{there}To go on with it in this notebook, run these lines in a cell, then the cells from the first step on; complete "
        f'steps return their recorded results:\n    from drillbook.engine import resume_run\n    run = resume_run("{run_id}")\n'
        f"In a terminal `drillbook resume {run_id}` goes on with it, and `drillbook abandon {run_id}` undoes what it holds."
    )


__all__ = ["Standing", "has_changed", "of", "require_none", "require_none_stands", "standing", "ways"]
