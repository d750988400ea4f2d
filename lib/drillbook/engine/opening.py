"""What a run is opened with: checked parameters, and who runs what against which site."""

from __future__ import annotations

import hashlib
import os
import shlex
import socket
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import drillbook
from drillbook.engine import run_folders
from drillbook.engine.kinds import RunbookKind, kind_of
from drillbook.engine.parameters import faults_of
from drillbook.errors import ParameterError
from drillbook.evidence import notebook_digest, sha256_file
from drillbook.profile import Site, load_site

SCHEMA = 3
"""Of the ``opened`` event: from 2 on the record names who asked, and the digest of the package that ran; from 3 on it has no fields for a
ticket and a retest, which are known later and are lines of the ledger (`evidence.deviations`)."""
UNATTENDED_ENV = "DRILLBOOK_UNATTENDED"  # set by the runner: nobody sees a text box, and the runner seals the run
VERSIONS = ("drillbook", "papermill", "psycopg", "kubernetes", "boto3", "nbconvert")


def validate(*, site: str, mode: str, parameters: Mapping[str, Any]) -> Site:
    """The parameters of a run, all faults at once; returns the site's profile. Touches nothing."""
    faults: list[str] = []
    if mode not in ("plan", "apply"):
        faults.append(f'mode is {mode!r}: "plan" shows what would happen, "apply" does it')
    faults += faults_of(parameters)
    found: Site | None = None
    try:
        found = load_site(site)
    except ParameterError as error:
        faults += error.faults
    if faults or found is None:
        raise ParameterError(faults, where="parameters and profile")
    return found


def lease_name(site: Site) -> str:
    """The Lease's name: never the Cluster's own, with which CloudNativePG 1.30 elects its primary."""
    return f"drillbook-{site.cluster.name}"


def public_names(site: Site) -> list[str]:
    """Names that stay readable even where a Secret holds them too."""
    tenants = [name for tenant in site.tenants for name in (tenant.database, tenant.app_role)]
    return [site.sql.role, site.sql.database, site.cluster.name, site.cluster.namespace, *tenants]


def waivers(site: Site, runbook: str) -> dict[str, str]:
    """The checks that the profile accepts, with the reason: in a recovery only, and none of what the library demands."""
    kind = kind_of(runbook)
    floor = set(kind.required)
    found = {one.check: one.because for one in site.waivers if kind.resumes}
    return {name: because for name, because in found.items() if name.partition(":")[0] not in floor}


def opening(
    site: Site, *, run_id: str, runbook: str, given: dict[str, Any], note: str, actor: dict[str, Any]
) -> dict[str, Any]:
    """The data of a journal's ``opened`` event."""
    goals = site.objectives
    kind = kind_of(runbook)
    lock = run_folders.project_root() / "requirements.txt"
    return (
        {
            "run_id": run_id,
            "runbook": runbook,
            "mode": given["mode"],
            "schema": SCHEMA,
            "site": {
                "name": site.name,
                "environment": site.environment,
                "caveats": list(site.caveats),
                "profile_sha256": site.digest,
                "lasting_sha256": site.lasting_digest,
            },
            "parameters": given,
            "notebook_sha256": notebook_sha256(runbook),
            "lock_sha256": sha256_file(lock) if lock.is_file() else None,
            "actor": actor | {"host": socket.gethostname()},
            "cluster": {"namespace": site.cluster.namespace, "name": site.cluster.name},
            "package_sha256": package_sha256(),
            "versions": {name: version(name) for name in VERSIONS},
            "objectives": {
                "rto_seconds": goals.recovery_time.total_seconds(),
                "rpo_seconds": goals.recovery_point.total_seconds(),
                "pitr_seconds": goals.point_in_time_recovery.total_seconds() if kind.to_an_instant else None,
                "enforce": goals.enforce,
            }
            if kind.recovers
            else {},
            "required": list(kind.required),
            "not_tested": list(kind.not_tested),
            "planned_at": "",
            "note": note,
            "git": _git(),
            "controls": list(site.controls),
        }
        | _patience(site, kind)
        | in_notebook()
    )


def seal_line(run_id: str) -> str:
    """The command that seals a run which somebody steps through, as it is typed; "" where a runner seals it."""
    if os.environ.get(UNATTENDED_ENV):
        return ""
    path = run_folders.open_notebook()
    return f"drillbook finish {run_id} --notebook {shlex.quote(str(path)) if path else 'NOTEBOOK'}"


def in_notebook() -> dict[str, str]:
    """Where the notebook is that somebody steps through: its saved copy is kept with the run when that ends."""
    path = run_folders.open_notebook()
    return {"notebook": str(path)} if path else {}


def _patience(site: Site, kind: RunbookKind) -> dict[str, Any]:
    """What a run that stops is left for, where it is left as it is: who must confirm, and for how long."""
    if not kind.resumes:
        return {}
    seconds = site.approvals.deadline.total_seconds()
    return {"patience": {"people": site.approvals.people, "deadline_seconds": seconds}}


def notebook_sha256(runbook: str) -> str:
    """The digest of the runbook's notebook as it is there now; "" if it isn't known where."""
    notebook = run_folders.notebook_path(runbook)
    return notebook_digest(notebook) if notebook else ""


def package_sha256() -> str:
    """The digest of the installed library as it is now: of every file's path and digest but what Python compiles."""
    root = Path(drillbook.__file__).parent
    files = sorted(path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    lines = (f"{sha256_file(path)}  {path.relative_to(root).as_posix()}\n" for path in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _git() -> dict[str, Any]:
    """Commit and dirty flag of the runbooks, where they are in a git checkout."""
    root = run_folders.project_root()
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=5)
        dirty = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return {"commit": "", "dirty": None}
    if commit.returncode:
        return {"commit": "", "dirty": None}
    return {"commit": commit.stdout.strip(), "dirty": bool(dirty.stdout.strip())}
