"""Every run that there is, and what dead ones have left."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from drillbook import kube as k8s
from drillbook.cli.headless.runner import partial_notebook
from drillbook.cli.headless.settling import events_of, notebook_name, open_again, settle
from drillbook.engine import acts_elsewhere, lease_name, run_folders
from drillbook.engine.alive import alive
from drillbook.engine.progress import doing
from drillbook.engine.step import Context, NullRecorder
from drillbook.errors import RunbookError
from drillbook.evidence import Masker, gates
from drillbook.evidence.judge import unsettled
from drillbook.manifests import cleanup as removal
from drillbook.manifests.recovery import RUN_LABEL
from drillbook.model import show_instant
from drillbook.profile import Site, load_site


@dataclass(frozen=True)
class RunSummary:
    """A run as ``drillbook list`` shows it."""

    run_id: str
    runbook: str
    site: str
    mode: str
    started_at: str
    state: str  # running | waiting | stopped | open | sealed
    verdict: str
    folder: Path
    promised: tuple[str, ...] = ()  # what the run promised to undo and has not undone yet
    until: str = ""  # waiting and stopped runs: what they made is kept until then
    doing: str = ""  # a running run: its step, and what that said last


def cleanup(site: str, *, now: datetime | None = None, say: Callable[[str], None] = lambda _: None) -> list[str]:
    """Clean up after dead runs: runs known here whose process is gone, and copies of others that have expired.

    Returns a line for each run that was settled, or that was left alone and why. A run that holds its Lease lives,
    wherever that is. What has expired is given by the API server's clock, not by this machine's.
    """
    from drillbook.steps.finish.remains import remains  # the steps take a while to import

    profile = load_site(site)
    masker = Masker()
    with k8s.Kube.open(profile.kubernetes.kubeconfig, profile.kubernetes.context, mask=masker.register) as kube:
        lines = _settled(kube, profile, now or _server_time(kube), say)
    ctx = Context(site=profile, run_id="", mode="plan", recorder=NullRecorder(), mask=masker.register)
    try:
        return lines + [f"left on production: {one.what}. {one.todo}" for one in remains(ctx)]
    finally:
        ctx.close()


def _server_time(kube: k8s.Kube) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=kube.api_time_offset_seconds() or 0.0)


def _settled(kube: k8s.Kube, profile: Site, at: datetime, say: Callable[[str], None]) -> list[str]:
    lines: list[str] = []
    known: dict[str, Path] = {}
    for folder in run_folders.run_dirs():
        events = events_of(folder)
        if (opened := gates.opening(events)) is None:  # killed before its first line: nothing was touched
            lines.append(f"run {folder.name}: it ended before it began, nothing was touched; {folder} may be deleted")
            continue
        if opened["site"]["name"] == profile.name and opened["mode"] == "apply":
            known[opened["run_id"]] = folder
            if (folder / "SHA256SUMS").exists() or alive(folder):
                continue
            until = kept_until(events, at)
            if host := acts_elsewhere(kube, profile, events):
                lines.append(f"run {folder.name}: still open on {host}, which holds its Lease; left alone")
            elif passed := gates.point_of_no_return(events):
                open_again(folder, by="cleanup")
                lines.append(
                    f"run {folder.name}: stopped midway since {passed!r}; left as it is: resume it, or go back "
                    f"(drillbook resume {folder.name}, drillbook undo {folder.name})"
                )
            elif until is not None:
                lines.append(
                    f"run {folder.name}: left as it is until {show_instant(until)}, to be resumed or abandoned"
                )
            else:
                say(f"settling run {folder.name}")
                if (partial := partial_notebook(folder.name)).exists():
                    shutil.move(partial, folder / notebook_name(events))
                try:
                    outcome = settle(folder, how="killed", message="no process of the run was left", by="cleanup")
                    lines.append(f"run {folder.name}: settled; {outcome.headline}")
                    lines += [f"run {folder.name}: {outcome.pending}"] if outcome.pending else []
                except RunbookError as error:  # one run's trouble is not another's
                    lines.append(f"run {folder.name}: {error.what}. {error.todo}")
    lines += _strangers(kube, profile, known, at, say)
    lines += [
        f"run {run_id}: still promised: {what}" for run_id, folder in known.items() for what in promises_of(folder)
    ]
    return lines


def promises_of(folder: Path) -> list[str]:
    """What a run that has ended promised to undo and did not, each with what it is."""
    return [] if alive(folder) else _promised(events_of(folder))


def _promised(events: list[dict[str, Any]]) -> list[str]:
    return [f"{event['id']} ({event['what']})" for event in unsettled(events)]


def _strangers(
    kube: k8s.Kube, site: Site, known: dict[str, Path], now: datetime, say: Callable[[str], None]
) -> list[str]:
    lines: list[str] = []
    left: dict[str, list[dict[str, Any]]] = {}
    for item in removal.left_of(kube, site.drill_namespace):
        left.setdefault(item["metadata"]["labels"][RUN_LABEL], []).append(item)
    holder = kube.lease_holder(site.drillbook_namespace, lease_name(site))
    for run_id, items in left.items():
        here = known.get(run_id)
        if holder == run_id and (here is None or acts_elsewhere(kube, site, events_of(here))):
            lines.append(f"run {run_id}: still running elsewhere, it holds the Lease; left alone")
        elif here is not None and alive(here):
            lines.append(f"run {run_id}: still running here; left alone")
        elif here is not None and (gates.point_of_no_return(events_of(here)) or kept_until(events_of(here), now)):
            continue
        elif here is None and not any(removal.expired(item, now) for item in items):
            lines.append(f"run {run_id}: {len(items)} objects of a run not known here, not expired; left alone")
        else:
            say(f"removing what is left of run {run_id}")
            removed = removal.remove_run(
                kube, site.drill_namespace, run_id, timeout_seconds=site.limits.step.total_seconds()
            )
            lines.append(f"run {run_id}: removed {', '.join(item.id for item in removed)}")
    return lines


def kept_until(events: list[dict[str, Any]], now: datetime) -> datetime | None:
    """Until when a run that stopped is left as it is; None if it isn't, or no longer."""
    until = gates.deadline(events) if gates.resumable(events) else None
    return until if until is not None and until > now else None


def runs(outputs: Path | None = None) -> list[RunSummary]:
    """Every run under ``outputs``, oldest first; one that isn't sealed shows as open."""
    found: list[RunSummary] = []
    for folder in run_folders.run_dirs(outputs):
        events = events_of(folder)
        if (opened := gates.opening(events)) is None:
            found.append(RunSummary(folder.name, folder.parent.name, "", "", "", "empty", "", folder))
            continue
        closed = next((event for event in reversed(events) if event["type"] == "closed"), None)
        sealed = (folder / "SHA256SUMS").exists()
        until = gates.deadline(events) if gates.resumable(events) else None
        state = "sealed" if sealed else _state(events, folder)
        verdict = str((closed or {}).get("verdict") or ("" if opened["mode"] == "apply" else "plan"))
        found.append(
            RunSummary(
                opened["run_id"],
                opened["runbook"],
                opened["site"]["name"],
                opened["mode"],
                opened["at"],
                state,
                verdict,
                folder,
                tuple(_promised(events)) if opened["mode"] == "apply" else (),
                f"{until:%Y-%m-%d %H:%M} UTC" if until and state in ("waiting", "stopped") else "",
                doing(folder, events) if state == "running" else "",
            )
        )
    return found


def _state(events: list[dict[str, Any]], folder: Path) -> str:
    if gates.waiting(events) is not None:
        return "waiting"
    if alive(folder):
        return "running"
    return "stopped" if gates.resumable(events) else "open"
