"""This site's own sealed runs as samples: only those whose evidence is intact, newest first, a few at most."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drillbook.evidence import sealed_runs, verify
from drillbook.evidence.forecast_vs_actual import achieved_seconds
from drillbook.forecast.types import RECOVERY, RunSample, Work
from drillbook.model import parse_instant

MOST = 12  # runs that are verified and used; older ones weigh next to nothing


@dataclass(frozen=True)
class History:
    """The samples, newest first, and the runs of this site that were not taken, each with the reason."""

    samples: tuple[RunSample, ...] = ()
    left_out: tuple[str, ...] = ()


def samples(outputs: Path | None, site: str, system_id: str) -> History:
    """The newest sealed runs of ``site`` on the database system ``system_id`` that recovered a copy.

    Reads only. A run whose record, journal, sums or ledger entry is not what was sealed is left out and named, and so
    is one that can't be read; a run that never got as far as a copy is no sample and is passed over.
    """
    found: list[RunSample] = []
    left_out: list[str] = []
    for folder in sealed_runs(outputs):
        if len(found) == MOST:
            break
        try:
            record = json.loads((folder / "record.json").read_bytes())
            sample = _sample(record, site, system_id)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            left_out.append(f"{folder.name}: its record can't be read ({type(error).__name__})")
            continue
        if sample is None or outputs is None:
            continue
        problems = [finding for finding in verify(outputs, folder) if folder.name in finding.where or finding.tampered]
        if problems:
            left_out.append(f"{folder.name}: {problems[0]}")
        else:
            found.append(sample)
    return History(tuple(found), tuple(left_out[:MOST]))


def _sample(record: Mapping[str, Any], site: str, system_id: str) -> RunSample | None:
    """What a run needed, or None if it is another site's, a plan, or did not recover a copy."""
    system, backup, copy = record["system"], record["backup"], record["copy"]["cluster"]
    reached, ended = record["target"]["reached"], record["when"]["finished_at"]
    same = system["site"] == site and str(backup and backup["system_id"]) == system_id
    if not same or record["test"]["mode"] != "apply" or not (backup and copy and reached and ended):
        return None
    phases = achieved_seconds(record)
    if any(name not in phases for name in RECOVERY):
        return None
    predicted = (record.get("forecast") or {}).get("predicted") or {}
    parallel = (predicted.get("work") or {}).get("wal_parallel")
    work = Work(
        stored_bytes=backup["size_bytes"],
        data_bytes=backup["cluster_size_bytes"],
        compression=backup["compression"],
        segments=reached["segments"],
        segment_bytes=backup["segment_bytes"],
        wal_parallel=0 if parallel is None else parallel,  # runs before there was a forecast don't say
        storage_class=str((copy.get("storage") or {}).get("storageClass", "")),
    )
    return RunSample(run_id=record["record"]["id"], ended_at=parse_instant(ended), work=work, phases=phases)


__all__ = ["MOST", "History", "samples"]
