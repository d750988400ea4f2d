"""The recovery window: what can be reached now, read from the bucket alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from drillbook import kube as k8s
from drillbook import objectstore
from drillbook.model import Check, Verdict, show_instant
from drillbook.objectstore import Reachable
from drillbook.step import Context, Step

_UNITS = {"ms": 0.001, "s": 1, "min": 60, "h": 3600, "d": 86400, "": 1}


def archive_timeout_seconds(cluster: dict[str, Any]) -> float:
    """``archive_timeout`` as the Cluster sets it, else CloudNativePG's default; 0 (never) counts as the default."""
    text = str(cluster.get("spec", {}).get("postgresql", {}).get("parameters", {}).get("archive_timeout", ""))
    found = re.fullmatch(r"\s*(\d+)\s*(ms|s|min|h|d|)\s*", text)
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0.0
    return seconds or objectstore.ARCHIVE_TIMEOUT_SECONDS


def read_window(ctx: Context, *, samples: int = objectstore.SAMPLES) -> Reachable:
    """List the archive, read its newest commits and a few segments through; changes nothing, asks no SQL.

    Raises what the API server and the object store answer; an archive without a usable backup is no error here.
    """
    archive = ctx.archive
    cluster = ctx.kube.get(k8s.CLUSTER, ctx.source_ref.namespace, ctx.source_ref.name) or {}  # it may be lost
    catalogue = objectstore.catalogue(
        ctx.store, archive.server_name, system_id=str(cluster.get("status", {}).get("systemID", ""))
    )
    held = objectstore.Holdings.read(ctx.store, catalogue.usable, archive.server_name)
    return objectstore.reachable(
        held,
        now=datetime.now(UTC),
        unusable=catalogue.unusable,
        under_way=objectstore.uploading(ctx.store, archive.server_name),
        archive_timeout_seconds=archive_timeout_seconds(cluster),
        samples=samples,
    )


@dataclass(frozen=True)
class ReadWindow(Step[Reachable]):
    """Read the recovery window: what could be recovered now, from which base backup, and where it would stop.

    From the bucket alone: the WAL's own commit times, not those of objects. A few segments are read through, every
    record's checksum among it.
    """

    def do(self, ctx: Context) -> Reachable:
        ctx.recorder.progress("listing the archive and reading its newest commits")
        found = read_window(ctx)
        ctx.recorder.fact("reach", found.drawn)
        for check in checks(found):
            ctx.recorder.check(check)
        return found


def checks(found: Reachable) -> Sequence[Check]:
    """What the survey proves."""
    broken = [item.broken for item in found.gaps]
    newest = found.backups[-1] if found.backups else None
    lost = [item for item in broken if not item.state.passing]
    last = show_instant(found.periods[-1].last) if found.periods else "nothing"
    return [
        Check(
            name="recovery window",
            proves="there is a base backup from which the newest archived commit can be reached",
            verdict=Verdict.VERIFIED if newest and found.periods and not newest.problem else Verdict.FAILED,
            expected="a usable base backup with unbroken WAL to the archive's end",
            observed=f"{len(found.backups)} usable base backups, reachable up to {last}"
            if not newest or not newest.problem
            else f"{newest.backup_id}: {newest.problem}",
        ),
        Check(
            name="WAL gaps",
            proves="no WAL between the oldest base backup and now is missing",
            verdict=Verdict.FAILED if lost else Verdict.UNPROVEN if broken else Verdict.VERIFIED,
            expected="none",
            observed="none" if not broken else f"{len(broken)}, the first: {broken[0]}",
            reason="what is missing may be on its way" if broken and not lost else "",
            details=tuple((f"gap {n}", f"{item}. {item.todo}") for n, item in enumerate(broken[:8], 1)),
        ),
        Check(
            name="WAL sample",
            proves="archived segments hold what PostgreSQL wrote, record by record",
            verdict=Verdict.FAILED if found.damaged else Verdict.VERIFIED if found.sampled else Verdict.UNPROVEN,
            expected="page headers, links and checksums right",
            observed="; ".join(map(str, found.damaged)) or f"{len(found.sampled)} segments, all right",
            reason="" if found.sampled else "no segment was read through",
        ),
    ]


__all__ = ["Reachable", "ReadWindow", "archive_timeout_seconds", "checks", "read_window"]
