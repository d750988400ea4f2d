"""What of a site is locked away: each sealed run is, or is pending and says why. Nothing here changes what is sealed.

A run's receipt (``archived.json``, in its folder, outside of what is sealed) is only a note of how far this machine has
come: whether it is true is answered by the bucket (`audit`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drillbook import kube as k8s
from drillbook.errors import EvidenceUnwritable, PreconditionError, RunbookError
from drillbook.evidence import Ledger, sealed_runs
from drillbook.evidence.canonical import canonical, now
from drillbook.evidence.chain import parse
from drillbook.evidence.seal import JOURNAL, RECEIPT
from drillbook.evidence.writing import write_whole
from drillbook.evidence_store.bucket import LockedBucket
from drillbook.evidence_store.ledger import keep_ledger, keep_tokens
from drillbook.evidence_store.runs import envelopes, keep_run
from drillbook.profile import Site
from drillbook.profile.evidence import EvidenceArchive

_RETRIED = "drillbook archive"


@dataclass(frozen=True)
class RunState:
    """Whether a sealed run is locked away; ``why`` it is not, "" if it is."""

    run_id: str
    runbook: str
    folder: Path
    why: str
    where: str = ""

    @property
    def pending(self) -> bool:
        """Whether it has still to be copied."""
        return bool(self.why)


@contextmanager
def open_bucket(site: Site) -> Iterator[LockedBucket]:
    """The profile's bucket, by its Secret or by the default chain. ParameterError; PreconditionError; KubernetesError."""
    settings = _settings(site)
    given: dict[str, str] = {}
    if settings.secret is not None or settings.endpoint_ca is not None:
        with k8s.Kube.open(site.kubernetes.kubeconfig, site.kubernetes.context) as kube:
            given = _from_secrets(kube, site.drillbook_namespace, settings)
    given["region"] = settings.region or given.get("region", "")
    bucket = LockedBucket.open(
        settings.location, endpoint_url=settings.endpoint_url, default_chain=settings.secret is None, **given
    )
    try:
        yield bucket
    finally:
        bucket.close()


def _settings(site: Site) -> EvidenceArchive:
    if site.evidence.archive is None:
        raise PreconditionError(
            f"the profile {site.name} has no evidence.archive",
            todo="Write there the bucket with Object Lock, its mode and its years (docs/how-to/archive-evidence.md).",
        )
    return site.evidence.archive


def _from_secrets(kube: k8s.Kube, namespace: str, settings: EvidenceArchive) -> dict[str, str]:
    wanted: list[tuple[str, str, str]] = []  # argument, Secret, key
    if settings.secret is not None:
        named = settings.secret.model_dump(exclude={"name"})
        wanted += [(argument, settings.secret.name, key) for argument, key in named.items() if key]
    if settings.endpoint_ca is not None:
        wanted.append(("ca_pem", settings.endpoint_ca.name, settings.endpoint_ca.key))
    entries = {name: kube.secret(namespace, name) for name in dict.fromkeys(name for _, name, _ in wanted)}
    missing = [f"Secret {namespace}/{name} has no key {key}" for _, name, key in wanted if key not in entries[name]]
    if missing:
        raise PreconditionError("; ".join(missing), todo="Add them, or correct evidence.archive in the profile.")
    return {argument: entries[name][key] for argument, name, key in wanted}


def state_of(run_dir: Path, settings: EvidenceArchive) -> RunState:
    """Whether this machine has noted that a sealed run is locked away, where the profile says, with its signatures."""
    found = _receipt(run_dir)
    if found.get("state") != "archived":
        why = str(found.get("why") or "it was not tried yet")
    elif found.get("where") != settings.location:
        why = f"it is archived at {found.get('where')}, not where the profile says"
    elif missing := set(envelopes(run_dir)) - set(found.get("objects") or ()):
        why = f"{', '.join(sorted(missing))}: signed since it was archived"
    else:
        why = ""
    return RunState(run_dir.name, run_dir.parent.name, run_dir, why, str(found.get("where", "")))


def states(outputs: Path, site: Site) -> list[RunState]:
    """All sealed runs of a site that acted, the oldest first."""
    settings = _settings(site)
    return [state_of(folder, settings) for folder in reversed(sealed_runs(outputs)) if _is_of(folder, site.name)]


def pending_runs(outputs: Path, site: Site) -> list[RunState] | None:
    """The sealed runs of a site that are not archived yet; None where its profile names no bucket."""
    return None if site.evidence.archive is None else [state for state in states(outputs, site) if state.pending]


def _is_of(run_dir: Path, site: str) -> bool:
    """Whether a run acted on this site, by the first line of its journal alone: there may be thousands."""
    try:
        with (run_dir / JOURNAL).open("rb") as file:
            opened = parse(file.readline().rstrip(b"\n")) or {}
    except OSError:
        return False
    return bool(opened.get("mode") == "apply" and (opened.get("site") or {}).get("name") == site)


def archive_sealed(outputs: Path, site: Site, run_dir: Path) -> str:
    """Copy a run that was just sealed, then those that are pending; why the run is pending, "" if it is archived.

    Never raises for the bucket: the run is sealed and keeps, and `drillbook archive` tries again.
    """
    if site.evidence.archive is None:
        return ""
    try:
        others = [one for one in reversed(sealed_runs(outputs)) if noted_pending(one) and _is_of(one, site.name)]
        with open_bucket(site) as bucket:
            why = _keep(bucket, site, run_dir, outputs)
            for other in others if not why else ():
                if other != run_dir and _keep(bucket, site, other, outputs):
                    break
    except (RunbookError, OSError) as error:
        why = _pending(run_dir, error)
    return why


def archive_ledger(outputs: Path, site: Site) -> str:
    """Copy the ledger's lines and its newest time stamp; why they are not there, "" if they are or the profile names no bucket.

    Never raises for the bucket: `drillbook archive` and the next run try again.
    """
    if site.evidence.archive is None:
        return ""
    ledger = Ledger.of(outputs, site.name)
    try:
        with open_bucket(site) as bucket:
            head = keep_ledger(bucket, site.evidence.archive, ledger, site.name)
            keep_tokens(bucket, site.evidence.archive, ledger, site.name, head)
    except (RunbookError, OSError) as error:
        return f"the ledger is not archived: {error}. The next run, or `{_RETRIED}`, tries again."
    return ""


def archive_all(outputs: Path, site: Site, *, everything: bool, tell: Callable[[RunState], None]) -> list[RunState]:
    """Copy every pending run, or with ``everything`` look at the archived ones again too; each as it is then.

    ParameterError, PreconditionError: no bucket. ObjectStoreError, NotReady: it does not answer, or can't lock; nothing was put.
    """
    found: list[RunState] = []
    settings = _settings(site)
    with open_bucket(site) as bucket:
        bucket.require_lock()
        for state in states(outputs, site):
            if state.pending or everything:
                _keep(bucket, site, state.folder, outputs)
            found.append(state_of(state.folder, settings))
            tell(found[-1])
    return found


def noted_pending(run_dir: Path) -> str:
    """Why a run's own note says that it is pending, "" if it does not: without any profile."""
    found = _receipt(run_dir)
    return str(found.get("why") or "it was not tried yet") if found.get("state") == "pending" else ""


def note_pending(run_dir: Path, site: Site) -> None:
    """Note of a run that was sealed in passing that it has still to be copied; the next run does it."""
    if site.evidence.archive is not None and not _receipt(run_dir):
        _write(run_dir, {"state": "pending", "why": "it was not tried yet"})


def _keep(bucket: LockedBucket, site: Site, run_dir: Path, outputs: Path) -> str:
    """Copy one run and the ledger; why it is pending, "" if both are there."""
    settings, ledger = _settings(site), Ledger.of(outputs, site.name)
    try:
        kept = keep_run(bucket, settings, run_dir, ledger, site.name)
        head = keep_ledger(bucket, settings, ledger, site.name)
        keep_tokens(bucket, settings, ledger, site.name, head)
        objects = {one.key.rpartition("/")[2]: {"version": one.version, "sha256": one.sha256} for one in kept}
        ledger_head = {"lines": head.lines, "sha256": head.sha256}
        _write(run_dir, {"state": "archived", "where": settings.location, "objects": objects, "ledger": ledger_head})
    except (RunbookError, OSError) as error:
        return _pending(run_dir, error)
    return ""


def _pending(run_dir: Path, error: RunbookError | OSError) -> str:
    """Note why a run is not archived, and say it. A note that can't be written is said instead: the run is pending all the same."""
    why, todo = (
        (error.what, error.todo) if isinstance(error, RunbookError) else (str(error), "See what holds the file.")
    )
    with suppress(EvidenceUnwritable):
        _write(run_dir, {"state": "pending", "why": why, "todo": todo})
    return (
        f"archive pending: {why}. {todo} The run is sealed and kept here; the next run, or `{_RETRIED}`, tries again."
    )


def _write(run_dir: Path, values: dict[str, Any]) -> None:
    write_whole(run_dir / RECEIPT, canonical(values | {"at": now()}) + b"\n", 0o644)


def _receipt(run_dir: Path) -> dict[str, Any]:
    try:
        found = json.loads((run_dir / RECEIPT).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


__all__ = [
    "RunState",
    "archive_all",
    "archive_ledger",
    "archive_sealed",
    "note_pending",
    "noted_pending",
    "open_bucket",
    "state_of",
    "states",
]
