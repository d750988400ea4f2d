"""The profile's time limits against what is predicted, before anything is begun: a limit must not end what is only slow."""

from __future__ import annotations

from drillbook import kube as k8s
from drillbook.engine.step import Context
from drillbook.errors import RunbookError
from drillbook.forecast import Forecast
from drillbook.model import Check, Verdict, parse_instant, show_seconds
from drillbook.steps.preflight.readiness import SourceCluster

NAME = "time limits"
_LAST = 5  # completed Backups that are looked at


def limit_faults(
    ctx: Context,
    cluster: SourceCluster,
    found: Forecast,
    *,
    instances: int = 1,
    recoveries: int = 1,
    carry_seconds: float = 0.0,
) -> list[str]:
    """Every limit that what is predicted would outlast, in words; none where nothing is known.

    ``instances`` is how many are made of one recovery: each replica copies the data as the recovery fetched it.
    """
    if found.seconds is None:
        return []
    fetch = found.phase("fetch")
    replicas = (instances - 1) * (fetch.seconds or 0.0) if fetch is not None else 0.0
    recovery, backup = found.seconds + replicas, backup_seconds(ctx, cluster)
    limits = ctx.site.limits
    parts = [
        ("recovery", "the recovery" + (f" with {instances - 1} replicas" if instances > 1 else ""), recovery),
        ("recovery", "a base backup (the longest of the last ones)", backup),
        ("total", "the whole run", recoveries * recovery + 2 * backup + carry_seconds),
    ]
    return [
        f"limits.{name} is {show_seconds(limit)}, and {what} is predicted to take {show_seconds(seconds)}: raise it in the profile first"
        for name, what, seconds in parts
        if seconds > (limit := getattr(limits, name).total_seconds())
    ]


def limits_check(
    ctx: Context, cluster: SourceCluster, found: Forecast, *, instances: int = 1, recoveries: int = 1
) -> Check:
    """The same as a check, which nobody passes a gate without."""
    faults = limit_faults(ctx, cluster, found, instances=instances, recoveries=recoveries)
    unknown = found.seconds is None
    return Check(
        name=NAME,
        proves="no limit of the profile ends what is only slow, once something has been begun",
        verdict=Verdict.NOT_APPLICABLE if unknown else Verdict.FAILED if faults else Verdict.VERIFIED,
        expected="each limit is longer than what is predicted",
        observed="; ".join(faults),
        reason=f"not known: {found.unknown}" if unknown else "",
    )


def backup_seconds(ctx: Context, cluster: SourceCluster) -> float:
    """How long the longest of the cluster's last completed Backups took; 0 if none is known."""
    try:
        items = ctx.kube.list(k8s.BACKUP, cluster.ref.namespace)
    except RunbookError:
        return 0.0
    spans = []
    for item in items:
        status = item.get("status") or {}
        begun, ended = status.get("startedAt"), status.get("stoppedAt")
        if (
            item["spec"]["cluster"]["name"] == cluster.ref.name
            and status.get("phase") == "completed"
            and begun
            and ended
        ):
            spans.append((parse_instant(ended), (parse_instant(ended) - parse_instant(begun)).total_seconds()))
    return max((seconds for _, seconds in sorted(spans)[-_LAST:]), default=0.0)


__all__ = ["backup_seconds", "limit_faults", "limits_check"]
