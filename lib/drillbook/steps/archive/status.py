"""The state of a cluster at a glance: is it healthy, and when was a restore of it last proven."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar

from drillbook import kube as k8s
from drillbook.engine.step import CheckStep, Context
from drillbook.evidence import sealed_runs, verify
from drillbook.model import Check, Verdict, parse_instant, show_instant
from drillbook.steps.preflight.readiness import HEALTHY, SourceCluster

MOST_AGE = timedelta(days=35)
"""A monthly drill, and a few days for a month whose first Sunday is late."""


@dataclass(frozen=True)
class ClusterHealthy(CheckStep):
    """CloudNativePG reports the cluster as healthy, with every instance ready."""

    cluster: SourceCluster
    name: ClassVar[str] = "cluster"
    proves: ClassVar[str] = "the cluster serves with all its instances"

    def observe(self, ctx: Context) -> list[Check]:
        found = ctx.kube.get(k8s.CLUSTER, self.cluster.ref.namespace, self.cluster.ref.name)
        status = (found or {}).get("status", {})
        phase, ready = str(status.get("phase", "")), int(status.get("readyInstances") or 0)
        wanted = int((found or {}).get("spec", {}).get("instances") or 0)
        well = found is not None and phase == HEALTHY and ready == wanted
        observed = f"{phase}; {ready} of {wanted} instances ready" if found else "there is no such Cluster"
        verdict = Verdict.VERIFIED if well else Verdict.FAILED
        return [self.result(verdict, expected=f"{HEALTHY}; {wanted} of {wanted} instances ready", observed=observed)]


@dataclass(frozen=True)
class LastVerifiedDrill(CheckStep):
    """The newest drill of this site that was VERIFIED, and how long ago that was.

    By the sealed runs in this machine's outputs, each verified again. Not required: they may be kept elsewhere.
    """

    cluster: SourceCluster
    name: ClassVar[str] = "last verified drill"
    proves: ClassVar[str] = "a restore of this cluster was proven lately"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> list[Check]:
        expected = f"at most {MOST_AGE.days} days ago"
        for folder in sealed_runs(ctx.outputs, "drill-*"):
            record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
            same = record["system"]["site"] == ctx.site.name and record["test"]["mode"] == "apply"
            if not same or record["verdict"]["verdict"] != "VERIFIED" or ctx.outputs is None:
                continue
            if any(finding.tampered for finding in verify(ctx.outputs, folder)):
                continue
            ended = parse_instant(record["when"]["finished_at"])
            verdict = Verdict.VERIFIED if datetime.now(UTC) - ended <= MOST_AGE else Verdict.FAILED
            observed = f"{folder.name} of {show_instant(ended)}"
            return [self.result(verdict, expected=expected, observed=observed)]
        return [self.result(Verdict.UNPROVEN, expected=expected, reason="no such run in this machine's outputs")]


__all__ = ["ClusterHealthy", "LastVerifiedDrill"]
