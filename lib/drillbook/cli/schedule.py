"""The profile's schedules as a folder of Kustomize: a base, and an overlay for each class of runbooks with its own rights."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from drillbook.engine.kinds import kind_of
from drillbook.errors import ParameterError
from drillbook.evidence.due import SealedRun, State, due, runs_of
from drillbook.evidence.writing import write_whole
from drillbook.manifests import schedule as rendered
from drillbook.profile import files_of, load_site
from drillbook.profile.schema import Schedule


def write_schedules(console: Console, site: str, image: str, to: Path, size: str) -> int:
    """Write ``kustomization.yaml``, ``base/`` and a folder for each class that the profile schedules; the exit status.

    ParameterError, all faults at once: no schedules, a class that is never scheduled, a folder that is not empty, no image.
    """
    profile = load_site(site)
    started = [one for one in profile.schedules if not _waits_at_a_gate(one)]
    classes = sorted({one.runbook.partition("-")[0] for one in started})
    faults = [] if profile.schedules else [f"the profile {profile.name} has no schedules"]
    faults += [
        f"{one.runbook}: a runbook that waits for a person is not scheduled, only {', '.join(rendered.ROLES)}"
        for one in profile.schedules
        if one.runbook.partition("-")[0] not in rendered.ROLES
    ]
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        faults.append(f"--out {to} is there and not empty")
    if ":" not in image.rpartition("/")[2] and "@" not in image:
        faults.append(f"--image {image} names no tag or digest: what runs would change by itself")
    if faults:
        raise ParameterError(faults, where="drillbook schedule", todo="Nothing was written.")
    applications = sorted({one.application.namespace for one in profile.tenants if one.application})
    base: dict[str, list[dict[str, Any]]] = {
        "evidence.yaml": [rendered.evidence_volume(profile, size)],
        "network.yaml": [rendered.network_policy(profile)],
        "exporter.yaml": rendered.exporter(profile, image),
    }
    if "check" not in classes:  # the exporter reads as a check does
        base["account.yaml"] = rendered.accounts(profile, "check", applications=applications)
    _folder(to / "base", base)
    for name in classes:
        jobs = [rendered.cron_job(profile, one, image) for one in started if one.runbook.partition("-")[0] == name]
        _folder(
            to / name,
            {"account.yaml": rendered.accounts(profile, name, applications=applications), "schedules.yaml": jobs},
        )
    _write(to / "kustomization.yaml", [_kustomization(["base", *classes])])
    home = profile.drillbook_namespace
    for one in profile.schedules:
        if one not in started:
            console.print(
                f"left out  {one.runbook}: it waits for a person at a gate; `drillbook due` says when it is late",
                markup=False,
            )
    own, *others = files_of(site)
    files = "".join(f" --from-file={file}" for file in others)
    far = [str(file) for file in others if file.parent != own.parent]
    if far:
        console.print(
            f"note      a ConfigMap is one folder: {', '.join(far)} must lie next to {own.name}, and be named so in it",
            markup=False,
            soft_wrap=True,
        )
    for line in (
        f"written   {to}: {len(started)} CronJobs of {', '.join(classes)}, the exporter, their accounts and bindings",
        f"before    kubectl -n {home} create configmap drillbook-site-{profile.name} --from-file=site.yaml={own}{files}",
        f'before    kubectl -n {home} create secret generic {rendered.TOKEN_SECRET} --from-literal=token="$(openssl rand -hex 32)"',
        f"apply     kubectl apply -k {to}",
    ):
        console.print(line, markup=False, soft_wrap=True)
    return 0


def _waits_at_a_gate(one: Schedule) -> bool:
    """Whether a runbook of a class that is scheduled stops at a gate all the same: it is owed, and started by a person."""
    return one.runbook.partition("-")[0] in rendered.ROLES and kind_of(one.runbook).resumes


def already_run(site: str, runbook: str, outputs: Path) -> str:
    """Which run this schedule's current period has already, in words; "" if it is still owed one.

    ParameterError: the profile schedules no such runbook.
    """
    profile = load_site(site)
    mine = [one for one in profile.schedules if one.runbook == runbook]
    if not mine:
        raise ParameterError(
            [f"the profile {profile.name} has no schedule of {runbook}"],
            where="drillbook run --if-due",
            todo="Write it under schedules, or run without --if-due.",
        )
    return run_of_period(mine[0], runs_of(outputs, profile.name), datetime.now(UTC))


def run_of_period(schedule: Schedule, runs: Iterable[SealedRun], now: datetime) -> str:
    """The run that decides the period of ``now``, in words; "" for none.

    One that failed decides it: a person repeats it, or not. One that was refused or is unproven does not: the next start
    tries again.
    """
    current = due([schedule], runs, now)[-1]
    if current.state not in (State.DONE, State.DONE_LATE, State.FAILED):
        return ""
    return f"{schedule.runbook} is {current.state} in this {current.every}: run {current.run_id}"


def _folder(to: Path, files: dict[str, list[dict[str, Any]]]) -> None:
    for name, objects in files.items():
        _write(to / name, objects)
    _write(to / "kustomization.yaml", [_kustomization(sorted(files))])


def _kustomization(resources: list[str]) -> dict[str, Any]:
    return {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": resources}


def _write(path: Path, objects: list[dict[str, Any]]) -> None:
    write_whole(path, yaml.safe_dump_all(objects, sort_keys=False).encode(), 0o644)


__all__ = ["already_run", "run_of_period", "write_schedules"]
