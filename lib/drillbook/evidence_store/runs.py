"""A sealed run in the bucket: its tar, its envelopes, and an index that names the tar's version."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from drillbook.errors import EvidenceTampered
from drillbook.evidence import Ledger
from drillbook.evidence.archive import archive, lines_by_run
from drillbook.evidence.canonical import canonical, sha256
from drillbook.evidence.seal import ATTESTED, RECORD, SUMS
from drillbook.evidence.verify import require_intact, verify
from drillbook.evidence_store.bucket import Lock, LockedBucket
from drillbook.evidence_store.keeping import Kept, keep
from drillbook.model import parse_instant
from drillbook.profile.evidence import EvidenceArchive

INDEX = "index.json"
SCHEMA = "drillbook.archived/1"


def run_prefix(site: str, run_id: str = "") -> str:
    """Where the runs of a site, or one run's objects, are below the profile's prefix."""
    return f"{site}/runs/{run_id}/" if run_id else f"{site}/runs/"


def envelopes(run_dir: Path) -> list[str]:
    """The names of the signed envelopes that a run has by now."""
    return [f"{name}.dsse.json" for name in ATTESTED if (run_dir / f"{name}.dsse.json").is_file()]


def sealed_at(ledger: Ledger, run_id: str) -> datetime:
    """When the ledger says that a run was sealed; EvidenceTampered: it does not."""
    found = ledger.sealing(run_id)
    if found is None:
        raise EvidenceTampered(
            f"run {run_id} is sealed, and {ledger.path} has no line about it",
            todo="`drillbook verify` shows all of it.",
        )
    return parse_instant(found[0]["at"])


def keep_run(bucket: LockedBucket, settings: EvidenceArchive, run_dir: Path, ledger: Ledger, site: str) -> list[Kept]:
    """Copy a sealed run, after all of it was verified; what was kept, the index last. Safe to repeat.

    EvidenceTampered: it is not what was sealed, or what was put did not come back so. ObjectStoreError.
    """
    require_intact(verify(ledger.path.parent.parent, run_dir))
    at = sealed_at(ledger, run_dir.name)
    lock = Lock(settings.mode, settings.until(at), settings.legal_hold)
    folder = run_prefix(site, run_dir.name)
    data = archive(run_dir, lines_by_run(ledger), signed=False)
    tar = keep(bucket, f"{folder}{run_dir.name}.tar", data, lock)
    kept = [tar, *(keep(bucket, f"{folder}{n}", (run_dir / n).read_bytes(), lock) for n in envelopes(run_dir))]
    index = _index(run_dir, ledger, site, tar)

    def same(there: bytes) -> bool:
        """An index of an earlier try may name another version of the same tar."""
        return _without_version(there) == _without_version(index)

    return [*kept, keep(bucket, f"{folder}{INDEX}", index, lock, same=same)]


def _index(run_dir: Path, ledger: Ledger, site: str, tar: Kept) -> bytes:
    record = json.loads((run_dir / RECORD).read_bytes())
    entry, line, number = ledger.sealing(run_dir.name) or ({}, "", 0)
    found = {
        "schema": SCHEMA,
        "site": site,
        "run_id": run_dir.name,
        "runbook": run_dir.parent.name,
        "verdict": record["verdict"]["verdict"],
        "started_at": record["when"]["started_at"],
        "finished_at": record["when"]["finished_at"],
        "sealed_at": entry.get("at"),
        "ledger": {"line": number, "sha256": line},
        "record_sha256": sha256((run_dir / RECORD).read_bytes()),
        "sums_sha256": sha256((run_dir / SUMS).read_bytes()),
        "tar": {"name": f"{run_dir.name}.tar", "version": tar.version, "sha256": tar.sha256, "bytes": len(tar.data)},
    }
    return canonical(found) + b"\n"


def _without_version(data: bytes) -> dict[str, Any]:
    try:
        found = dict(json.loads(data))
        return found | {"tar": {name: value for name, value in found["tar"].items() if name != "version"}}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {"not an index": sha256(data)}


def run_ids(keys: Iterator[str], site: str) -> set[str]:
    """The runs that objects belong to."""
    prefix = run_prefix(site)
    return {key.removeprefix(prefix).partition("/")[0] for key in keys if key.startswith(prefix)}


__all__ = ["INDEX", "SCHEMA", "envelopes", "keep_run", "run_ids", "run_prefix", "sealed_at"]
