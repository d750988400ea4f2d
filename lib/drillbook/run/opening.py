"""What a run is opened with: checked parameters, and who runs what against which site."""

from __future__ import annotations

import socket
import subprocess
from importlib.metadata import version
from typing import Any

from drillbook.errors import ParameterError
from drillbook.evidence import notebook_digest, sha256_file
from drillbook.model import parse_instant
from drillbook.run import places
from drillbook.site import Site, load_site

SCHEMA = 1
VERSIONS = ("drillbook", "papermill", "psycopg", "kubernetes", "boto3", "nbconvert")

# The library's floor, which no profile can switch off, and what a drill always judges.
FLOOR = ("target and timeline", "boundary", "rows", "structure", "site questions", "quarantine")


NOT_TESTED = (
    "putting the recovered data into service (no cut-over)",
    "recovery with the source's own load, nodes and volumes: times are technical recovery times on this hardware",
    "rows of tables that the profile does not name in digest_tables",
    "the application itself on the recovered data",
)


def validate(*, site: str, mode: str, target_time: str) -> Site:
    """The parameters of a run, all faults at once; returns the site's profile. Touches nothing."""
    faults: list[str] = []
    if mode not in ("plan", "apply"):
        faults.append(f'mode is {mode!r}: "plan" shows what would happen, "apply" does it')
    if target_time:
        try:
            parse_instant(target_time)
        except ValueError as error:
            faults.append(f"target_time: {error}")
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


def opening(
    site: Site, *, run_id: str, runbook: str, given: dict[str, str], note: str, actor: dict[str, Any]
) -> dict[str, Any]:
    """The data of a journal's ``opened`` event."""
    notebook = places.notebook_path(runbook)
    goals = site.objectives
    lock = places.project_root() / "requirements.txt"
    return {
        "run_id": run_id,
        "runbook": runbook,
        "mode": given["mode"],
        "schema": SCHEMA,
        "site": {
            "name": site.name,
            "environment": site.environment,
            "caveats": list(site.caveats),
            "profile_sha256": site.digest,
        },
        "parameters": given,
        "notebook_sha256": notebook_digest(notebook) if notebook else "",
        "lock_sha256": sha256_file(lock) if lock.is_file() else None,
        "actor": actor | {"host": socket.gethostname()},
        "cluster": {"namespace": site.cluster.namespace, "name": site.cluster.name},
        "versions": {name: version(name) for name in VERSIONS},
        "objectives": {
            "rto_seconds": goals.recovery_time.total_seconds(),
            "rpo_seconds": goals.recovery_point.total_seconds(),
            "pitr_seconds": goals.point_in_time_recovery.total_seconds(),
            "enforce": goals.enforce,
        },
        "required": list(FLOOR),
        "not_tested": list(NOT_TESTED),
        "planned_at": "",
        "note": note,
        "git": _git(),
        "controls": list(site.controls),
    }


def _git() -> dict[str, Any]:
    """Commit and dirty flag of the runbooks, where they are in a git checkout."""
    root = places.project_root()
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=5)
        dirty = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return {"commit": "", "dirty": None}
    if commit.returncode:
        return {"commit": "", "dirty": None}
    return {"commit": commit.stdout.strip(), "dirty": bool(dirty.stdout.strip())}
