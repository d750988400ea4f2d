"""How long the recovery will take, compared with what was promised, before anything is created."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drillbook import archive, forecast
from drillbook import kube as k8s
from drillbook.archive import ExpectedWal
from drillbook.archive.location import PLUGIN
from drillbook.engine.step import Context, Step
from drillbook.errors import KubernetesError, ObjectStoreError
from drillbook.evidence.facts import Facts, NotedForecast
from drillbook.forecast import Forecast, Work
from drillbook.model import BaseBackup, Check, Verdict, show_seconds, show_span
from drillbook.steps.archive.base_backup import ArchivedWal
from drillbook.steps.preflight.readiness import SourceCluster

OURS = 1  # the segment that a drill switches itself
NAME = "forecast"


@dataclass(frozen=True)
class ForecastRecovery(Step[Forecast]):
    """Forecast the recovery time, compared with the objective.

    From this site's own sealed runs where their evidence is intact; else from a short read of the real objects. A
    forecast over the objective is a warning: the drill goes on, and measures it.
    """

    cluster: SourceCluster
    backup: BaseBackup
    archived: ArchivedWal | ExpectedWal

    def do(self, ctx: Context) -> Forecast:
        return forecast_recovery(ctx, self.cluster, self.backup, self.archived)


def forecast_recovery(
    ctx: Context, cluster: SourceCluster, backup: BaseBackup, archived: ArchivedWal | ExpectedWal
) -> Forecast:
    """How long a recovery from this backup will take; noted as a fact, and judged against the objective."""
    work = _work(ctx, cluster, backup, archived)
    history = forecast.samples(ctx.outputs, ctx.site.name, cluster.system_id)
    found = forecast.predict(work, history.samples, None, left_out=history.left_out)
    if found.seconds is None:
        ctx.recorder.progress("no earlier run to go by: reading a little of the archive")
        calibration = forecast.calibrate(ctx.store, backup, _segments(ctx, backup), _pods(ctx, cluster))
        found = forecast.predict(work, history.samples, calibration, left_out=history.left_out)
    by_plugin = ctx.archive.method == PLUGIN
    advice = forecast.advise(found, history.samples, by_plugin=by_plugin)
    found = found.model_copy(update={"advice": advice})
    ctx.recorder.note(Facts(forecast=NotedForecast.of(found)))
    ctx.recorder.check(_judge(ctx, found))
    return found


def _work(ctx: Context, cluster: SourceCluster, backup: BaseBackup, archived: ArchivedWal | ExpectedWal) -> Work:
    wal: dict[str, Any] = ctx.archive.configuration.get("wal") or {}
    # CloudNativePG's in-tree recovery ignores wal.maxParallel.
    parallel = int(wal.get("maxParallel") or 1) if ctx.archive.method == PLUGIN else 1
    return Work(
        stored_bytes=backup.size_bytes,
        data_bytes=backup.cluster_size_bytes,
        compression=backup.compression,
        segments=archived.segments + OURS,
        segment_bytes=backup.segment_bytes,
        wal_parallel=parallel,
        storage_class=cluster.storage_class,
    )


def _segments(ctx: Context, backup: BaseBackup) -> list[archive.ArchivedSegment]:
    try:
        listing = archive.wal_names(ctx.store, backup.server_name, since=backup.begin_wal)
    except ObjectStoreError:
        return []  # the chain's own step judges the archive; here only the forecast becomes unknown
    return [segment for segment in listing.segments() if segment.name >= backup.begin_wal]


def _pods(ctx: Context, cluster: SourceCluster) -> list[dict[str, Any]]:
    try:
        return ctx.kube.list(k8s.POD, cluster.ref.namespace, labels=f"cnpg.io/cluster={cluster.ref.name}")
    except KubernetesError:
        return []  # the role may be without it: then a pod's start is an assumption, and the forecast says so


def _judge(ctx: Context, found: Forecast) -> Check:
    goals = ctx.site.objectives
    limit = min(goals.recovery_time, goals.point_in_time_recovery).total_seconds()
    fields: dict[str, Any] = {
        "name": NAME,
        "proves": "the recovery can be expected within its objective, before it is begun",
        "required": False,
        "expected": f"at most {show_seconds(limit)}",
        "details": tuple((phase.name, show_span(phase.seconds, phase.low, phase.high)) for phase in found.phases),
    }
    if found.seconds is None:
        return Check(verdict=Verdict.UNPROVEN, reason=f"unknown: {found.unknown}", **fields)
    observed = show_span(found.seconds, found.low, found.high)
    if found.seconds > limit:
        return Check(verdict=Verdict.FAILED, observed=f"{observed}: OVER THE OBJECTIVE", **fields)
    late = found.high is not None and found.high > limit
    return Check(
        verdict=Verdict.VERIFIED,
        observed=observed,
        reason="the upper end of the interval is over the objective" if late else "",
        **fields,
    )


__all__ = ["ForecastRecovery", "forecast_recovery"]
