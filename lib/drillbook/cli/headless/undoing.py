"""Going back from a recovery by its run's id: which runbook does it, and with which parameters, is read from the cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from drillbook import kube as k8s
from drillbook.cli.headless.settling import events_of
from drillbook.engine import run_folders
from drillbook.engine.noted import CONNECTION_CHANGES, INDEX_CHANGES, NotedChanges
from drillbook.engine.step import Context, NullRecorder
from drillbook.errors import ParameterError, RunbookError
from drillbook.evidence import Masker
from drillbook.manifests.replacement import MADE_BY
from drillbook.profile import Site, load_site
from drillbook.steps.undo.drop_cluster import runs_of
from drillbook.steps.undo.point_in_time import PutAside, put_aside
from drillbook.swap.names import Names


@dataclass(frozen=True)
class WayBack:
    """A runbook and the parameters with which it goes back from one run."""

    notebook: Path
    parameters: dict[str, str]
    site: str


def way_back(run_id: str, site: str) -> WayBack:
    """Which undo runbook goes back from ``run_id``; its folder need not be here. Raises ParameterError if none can."""
    run_id, site = _known_here(run_id, site)
    profile = load_site(site)
    for name, notes in (("undo-change-indexes", INDEX_CHANGES), ("undo-change-connections", CONNECTION_CHANGES)):
        if database := _noted(profile, run_id, notes):
            return WayBack(_runbook(name), {"database": database, "of_run": run_id}, site)
    aside, restored = _look(profile, run_id)
    for one in aside:
        tenant = next((t for t in profile.tenants if Names.of(t.database, run_id).kept == one.database), None)
        if tenant is not None:
            return WayBack(_runbook("undo-point-in-time"), {"database": tenant.database, "of_run": run_id}, site)
    if restored:
        return WayBack(_runbook("undo-full-restore"), {"of_run": run_id}, site)
    raise ParameterError(
        [
            f"RUN: nothing on {profile.source} says that run {run_id} has put anything into service, or changed an index or a connection setting"
        ],
        where="drillbook undo",
        todo="`drillbook abandon RUN` undoes a run that has not; `drillbook cleanup` lists what recoveries have left.",
    )


def drop_kept(run_id: str, site: str) -> WayBack:
    """The runbook that drops the database or the cluster that ``run_id`` has put aside. Raises ParameterError if nothing was."""
    run_id, site = _known_here(run_id, site)
    profile = load_site(site)
    aside, restored = _look(profile, run_id)
    if not aside and not restored:
        todo = "`drillbook cleanup` lists what recoveries have left."
        raise ParameterError(
            [f"RUN: run {run_id} has put nothing of {profile.source} aside"], where="drillbook drop-kept", todo=todo
        )
    name = aside[0].database if aside else ""
    database = next((t.database for t in profile.tenants if name.startswith(t.database)), profile.tenants[0].database)
    return WayBack(_runbook("change-drop-kept"), {"database": database, "of_run": run_id}, site)


def _known_here(run_id: str, site: str) -> tuple[str, str]:
    """The run's full id and its site, where its folder is here; else as they were given."""
    try:
        opened = events_of(run_folders.find_run(run_id))[0]
    except (ParameterError, IndexError):
        return run_id, site
    return str(opened["run_id"]), site or str(opened["parameters"]["site"])


def _look(site: Site, run_id: str) -> tuple[list[PutAside], bool]:
    """What the run put aside on the server, and whether it left the note of a restore. What can't be read is not there."""
    ctx = _looking(site)
    try:
        known = ctx.kube.list(k8s.CONFIG_MAP, site.cluster.namespace, labels=MADE_BY)
        notes = [item for item in known if run_id in runs_of(item)]
        try:
            aside = put_aside(ctx, run_id)
        except RunbookError:
            if not notes:
                raise
            aside = []
        return aside, bool(notes)
    finally:
        ctx.close()


def _noted(site: Site, run_id: str, notes: NotedChanges) -> str:
    """The database that the run has changed something of; "" if none, or if nobody can say."""
    ctx = _looking(site)
    try:
        return notes.database_of(ctx, run_id)
    finally:
        ctx.close()


def _looking(site: Site) -> Context:
    return Context(site=site, run_id="", mode="plan", recorder=NullRecorder(), mask=Masker().register)


def _runbook(name: str) -> Path:
    return run_folders.project_root() / "runbooks" / f"{name}.ipynb"
