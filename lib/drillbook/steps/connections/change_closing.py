"""Before and after a change of connections, its end whichever way it went, and what is announced."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

from drillbook import kube as k8s
from drillbook.connections import change as changing
from drillbook.connections.change import CLUSTER, ConnectionChange
from drillbook.connections.limits import HEADROOM
from drillbook.engine import undo
from drillbook.engine.step import CheckStep, Context, Plan, Step
from drillbook.errors import VerificationError
from drillbook.evidence.facts import Facts
from drillbook.kube import workloads
from drillbook.manifests import canary as manifests
from drillbook.model import Check, Effect, Frozen, Verdict
from drillbook.steps.connections.change import KINDS, application_of, differences
from drillbook.steps.connections.change_limits import ChangedLimits, role_limit
from drillbook.steps.connections.change_pools import remove_canary, take_back
from drillbook.steps.connections.change_probe import (
    PodProbe,
    Sessions,
    SessionsSeen,
    canary_pods,
    is_ready,
    unchanged_pods,
)
from drillbook.steps.connections.change_watch import Watched
from drillbook.steps.connections.path import FoundPath
from drillbook.steps.finish.announce import Announcement
from drillbook.steps.preflight.readiness import SourceCluster

_BURSTS = 6


class ConnectionState(Frozen):
    """How the application's connections are at one moment; times in seconds. ``in_use`` is the share of a pod's pool that is in use or waited for."""

    pods: int
    p95: float | None
    failed: int
    in_use: float | None
    pool: int | None
    sessions: Sessions

    def rows(self) -> list[tuple[str, str]]:
        """As a card shows it."""
        now = self.sessions
        found = [
            ("pods", f"{self.pods}, each with a pool of {self.pool}" if self.pool else str(self.pods)),
            (
                "p95 of a probe",
                "no pod answers" if self.p95 is None else f"{self.p95 * 1000:.1f} ms, {self.failed} failed",
            ),
        ]
        if self.in_use is not None:
            found.append(("pool in use while probed", f"{self.in_use:.0%}"))
        found.append(("sessions of the role", str(now)))
        return [*found, ("sessions of everybody", f"{now.everybody} of {now.slots}")]


@dataclass(frozen=True)
class MeasureConnections(Step[ConnectionState]):
    """Measure how a pod answers a few requests at once, how much of its pool they take, and who is on the server."""

    found: FoundPath
    change: ConnectionChange
    probe_clients: int = 4

    def do(self, ctx: Context) -> ConnectionState:
        state = measured(ctx, self.found, self.change, self.probe_clients)
        ctx.recorder.note(Facts(connections_before=state.model_dump(mode="json")))
        return state


def measured(ctx: Context, found: FoundPath, change: ConnectionChange, clients: int) -> ConnectionState:
    """Every ready pod is asked in turn."""
    _, app = application_of(ctx, change.database)
    pods = [pod for pod in unchanged_pods(ctx, workloads.deployment(ctx.kube, app)) if is_ready(pod)]
    p95s, failed, use, sizes = [], 0, [], []
    with ExitStack() as stack:
        probes = [stack.enter_context(PodProbe(ctx, app, str(pod["metadata"]["name"]))) for pod in pods]
        for number in range(_BURSTS if probes else 0):
            burst, gauges = probes[number % len(probes)].burst(clients)
            failed += burst.failed
            p95s += [burst.p95] if burst.latencies and not burst.failed else []
            use += [(one.active + one.pending) / one.most for one in gauges if one.most]
            sizes += [one.most for one in gauges]
    return ConnectionState(
        pods=len(pods),
        p95=round(statistics.median(p95s), 6) if p95s else None,
        failed=failed,
        in_use=round(statistics.fmean(use), 4) if use else None,
        pool=int(max(sizes)) if sizes else None,
        sessions=SessionsSeen(ctx, found).look(),
    )


class Ended(Frozen):
    """How the change ended: what stays, or that everything is as it was."""

    kept: bool
    lines: tuple[tuple[str, str], ...] = ()

    def rows(self) -> list[tuple[str, str]]:
        """As a card shows it."""
        return list(self.lines)


@dataclass(frozen=True)
class EndConnectionChange(Step[Ended]):
    """Remove the canary; keep the change if every part of it held, else put everything back and compare it with before.

    Whatever has failed: this step runs. What was changed is put back by what the run has promised before it changed it.
    """

    effect: ClassVar[Effect] = Effect.CHANGES
    settles: ClassVar[bool] = True
    cluster: SourceCluster
    change: ConnectionChange
    limits: ChangedLimits
    rolled: Watched

    def plan(self, ctx: Context) -> Plan:
        return Plan(summary="Remove the canary; keep the change if it held, else put everything back")

    def do(self, ctx: Context) -> Ended:
        if not isinstance(self.change, ConnectionChange):
            return Ended(kept=False, lines=(("nothing", "was changed"),))
        _, app = application_of(ctx, self.change.database)
        kept = self.unknown is None and not ctx.recorder.unmet()
        if not kept:
            return self._undone(ctx)
        remove_canary(ctx, app)
        with ctx.source(read_only=False) as own:
            own.run("connection_change_done", run_id=ctx.run_id)
            if self.change.undoes:
                own.run("connection_change_undone", run_id=self.change.undoes, by=ctx.run_id)
        for promise in _of_the_change(ctx, self.change):
            ctx.recorder.settled(promise, "kept", "the change held; `drillbook undo` takes it back")
        return Ended(kept=True, lines=tuple(("kept", item.words) for item in self.change.settings))

    def _undone(self, ctx: Context) -> Ended:
        _, app = application_of(ctx, self.change.database)
        take_back(ctx, app, self.change)
        promises = _of_the_change(ctx, self.change)
        for promise in reversed(promises):
            undo.restore(ctx, promise)
        for item in self.change.of_limits:
            if item.kind == CLUSTER and any(promise.kind == CLUSTER for promise in promises):
                _wait_for_limit(ctx, item.place, -1 if item.before is None else int(item.before))
        left = differences(ctx, self.change)
        if (pods := canary_pods(ctx, app.namespace, ctx.run_id)) or left:
            raise VerificationError(
                "not everything is as it was before",
                expected="every object as before, and no canary",
                observed="; ".join([*left, *(f"pod {pod['metadata']['name']}" for pod in pods)]),
                todo="Somebody changed it in the meantime, or the operator has not followed: look at it by hand.",
            )
        return Ended(
            kept=False,
            lines=tuple(
                ("as before", f"{one.kind} {one.namespace}/{one.name}, compared field by field")
                for one in self.change.objects
            ),
        )


def _of_the_change(ctx: Context, change: ConnectionChange) -> list[Any]:
    """The open promises to put one of the changed objects back."""
    places = {(one.kind, one.namespace, one.name) for one in change.objects}
    return [item for item in ctx.recorder.promises() if (item.kind, item.namespace, item.name) in places]


def _wait_for_limit(ctx: Context, role: str, wanted: int) -> None:
    limit = ctx.site.limits.step.total_seconds()
    ctx.wait_while(
        lambda: "" if (now := role_limit(ctx, role)) == wanted else f"it is {now}",
        limit,
        lambda words: f"role {role} gets its limit {wanted} back: {words}",
        lambda words: VerificationError(
            "the Cluster is as before, and the server is not",
            expected=f"rolconnlimit {wanted}",
            observed=words,
            todo="Look at the Cluster's status.managedRolesStatus.",
        ),
    )


@dataclass(frozen=True)
class CompareConnections(CheckStep):
    """Every setting is in place, no canary is left, and what has become of latency, pools and sessions.

    Each share of a limit is shown against 70 %: beyond, decide again.
    """

    cluster: SourceCluster
    found: FoundPath
    change: ConnectionChange
    before: ConnectionState
    ended: Ended
    probe_clients: int = 4
    name: ClassVar[str] = "change in place"
    proves: ClassVar[str] = "what was to be changed is changed, and nothing else is left"

    def observe(self, ctx: Context) -> Sequence[Check]:
        if not self.ended.kept:
            return [self.result(Verdict.UNPROVEN, reason="the change was taken back: everything is as it was")]
        _, app = application_of(ctx, self.change.database)
        after = measured(ctx, self.found, self.change, self.probe_clients)
        ctx.recorder.note(Facts(connections_after=after.model_dump(mode="json")))
        faults = [
            f"{item.what} is {changing.shown(value)}, not {item.new}"
            for item in self.change.settings
            if (value := _now(ctx, item)) != item.after
        ]
        if ctx.kube.get(k8s.DEPLOYMENT, app.namespace, manifests.name_of(app.deployment, ctx.run_id)) is not None:
            faults.append("the canary is still there")
        was = dict(self.before.rows())
        details = tuple((what, f"{was.get(what, 'not measured')} → {now}") for what, now in after.rows())
        return [
            self.result(
                Verdict.FAILED if faults else Verdict.VERIFIED,
                expected="every setting as wanted, no canary",
                observed="; ".join(faults)
                or "; ".join(
                    [*(f"{item.key} {item.new}" for item in self.change.settings), _latency(self.before, after)]
                ),
                details=details,
            ),
            self._headroom(after),
        ]

    def _headroom(self, after: ConnectionState) -> Check:
        now = after.sessions
        shares = [("max_connections", now.everybody, now.slots)]
        shares += [("the role's limit", now.role, now.limit)] if now.limit > 0 else []
        over = [f"{name}: {used} of {size}" for name, used, size in shares if used > HEADROOM * size]
        return self.result(
            Verdict.FAILED if over else Verdict.VERIFIED,
            name="headroom after the change",
            proves="the use now leaves 30 % of every limit",
            required=False,
            expected=f"at most {HEADROOM:.0%} of each limit in use",
            observed="; ".join(over or [f"{name}: {used} of {size}" for name, used, size in shares]),
        )


def _latency(before: ConnectionState, after: ConnectionState) -> str:
    both = [f"{state.p95 * 1000:.1f} ms" if state.p95 is not None else "not measured" for state in (before, after)]
    return f"p95 of a probe {both[0]} before, {both[1]} after"


def _now(ctx: Context, item: changing.Setting) -> Any:
    obj = ctx.kube.get(KINDS[item.kind], item.namespace, item.name)
    try:
        return changing.current(obj, item) if obj is not None else "gone"
    except KeyError:
        return "gone"


@dataclass(frozen=True)
class AnnounceConnectionChange(Announcement):
    """Say what was changed, or that it was taken back, and how to go back; and inform people."""

    cluster: SourceCluster
    change: ConnectionChange
    ended: Ended

    def observe(self, ctx: Context) -> Sequence[Check]:
        change, ref = self.change, self.cluster.ref
        state = "NOT PROVEN to be " if ctx.recorder.unmet() else ""
        what = "; ".join(f"{item.key} {item.old} → {item.new}" for item in change.settings)
        done = f"run {change.undoes} is {state}undone" if change.undoes else f"changed connections are {state}in place"
        if not self.ended.kept:
            done = "the change of connections was taken back: everything is as it was"
        lines = [
            f"{ref}, database {change.database}: {done} ({what}).",
            *([f"The way back: drillbook undo {ctx.run_id}."] if self.ended.kept else []),
            *(
                ["Declare it where the manifests are kept as well, or the next deployment takes it back."]
                if self.ended.kept
                else []
            ),
            f"Run {ctx.run_id}.",
        ]
        claim = f"The connections of {change.database} of {ref.name} are changed: {what}"
        return self.publish(ctx, lines, claim=claim)


__all__ = [
    "AnnounceConnectionChange",
    "CompareConnections",
    "ConnectionState",
    "EndConnectionChange",
    "Ended",
    "MeasureConnections",
    "measured",
]
