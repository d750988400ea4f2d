"""New pods watched for a while: looks, paired bursts, and the first threshold that is missed ends it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from drillbook.connections.comparison import Criterion, Decision
from drillbook.connections.watching import Look, Watch
from drillbook.engine.step import Context
from drillbook.errors import RunbookError
from drillbook.model import Frozen, show_seconds
from drillbook.profile.schema import Application
from drillbook.steps.connections.change_probe import PodProbe, Sessions, SessionsSeen, address, is_ready, restarts, seen
from drillbook.steps.connections.path import FoundPath

Pod = dict[str, Any]
Pods = Callable[[], list[Pod]]
_MOST_PAUSE, _PARTS = 5.0, 40
_GRACE_SECONDS = 60.0
"""A watch that has not decided goes on for as long again, and for so many seconds at least."""


class Watched(Frozen):
    """What a watch has shown: each threshold, and for how long it was looked at. ``where`` is what was watched."""

    where: str = ""
    seconds: float = 0.0
    looks: int = 0
    criteria: tuple[Criterion, ...] = ()
    counted: bool = True

    def rows(self) -> list[tuple[str, str]]:
        """As a card shows it."""
        if not self.where:
            return [("watched", "nothing: the application's own settings stay as they are")]
        head = [("watched", f"{self.where}, {show_seconds(self.seconds)}, {self.looks} looks")]
        return head + [(one.name, f"{one.decision}: {one.measured}") for one in self.criteria]


class ThresholdsMissed(Exception):
    """A threshold was missed: which, in words, and what had been seen."""

    def __init__(self, missed: list[str], watched: Watched) -> None:
        super().__init__("; ".join(missed))
        self.missed, self.watched = missed, watched


def watch(
    ctx: Context,
    app: Application,
    found: FoundPath,
    *,
    where: str,
    new: Pods,
    unchanged: Pods,
    more: int,
    before: Sessions,
    seconds: float,
    clients: int,
) -> Watched:
    """Watch the new pods for so many seconds, each look with a burst to one of them and to an unchanged one.

    ``more`` is how many connections the new pods may add to ``before``. Raises ThresholdsMissed at the first that is missed.
    """
    began = time.monotonic()
    compared = bool(_ready(unchanged()))
    server = SessionsSeen(ctx, found)
    judging = Watch(compared=compared, counted=bool(app.metrics_path))
    pause = min(_MOST_PAUSE, seconds / _PARTS)
    number = 0

    def told() -> Watched:
        return Watched(
            where=where,
            seconds=round(time.monotonic() - began, 3),
            looks=judging.looks,
            criteria=judging.criteria,
            counted=bool(app.metrics_path),
        )

    with ExitStack() as stack:
        probes: dict[str, PodProbe] = {}
        served: set[str] = set()

        def probe(pod: Pod) -> PodProbe:
            name = str(pod["metadata"]["name"])
            if name not in probes:
                probes[name] = stack.enter_context(PodProbe(ctx, app, name))
            return probes[name]

        while True:
            number += 1
            ctx.require_lease()
            pods = [pod for pod in new() if not pod["metadata"].get("deletionTimestamp")]
            ready, others = _ready(pods), _ready(unchanged())
            served |= {str(pod["metadata"]["name"]) for pod in ready}
            looks = tuple(
                seen(ctx, app, pod, probe(pod) if pod in ready else None)
                for pod in pods
                # One that an autoscaler adds during the watch is not unwell because it is starting.
                if str(pod["metadata"]["name"]) in served or restarts(pod)
            )
            now = server.look()
            stuck, elsewhere = _stuck(found, now, before, pods, others)
            judging.add(Look(pods=looks, stuck=stuck, stuck_elsewhere=elsewhere, shares=now.shares(more, before)))
            if ready:
                _pair(judging, probe, ready[number % len(ready)], others, clients, number)
            if missed := judging.missed:
                raise ThresholdsMissed(missed, told())
            spent = time.monotonic() - began
            undecided = [one for one in judging.criteria if one.decision is Decision.UNPROVEN]
            if spent >= seconds and (not undecided or spent >= max(2 * seconds, _GRACE_SECONDS)):
                return told()
            ctx.recorder.progress(
                f"{where}: {spent:.0f} of {seconds:.0f} s",
                fraction=min(1.0, spent / seconds) if seconds else None,
                rows=told().rows()[1:],
            )
            ctx.pause(pause)


def _ready(pods: list[Pod]) -> list[Pod]:
    return [pod for pod in pods if is_ready(pod)]


def _pair(
    judging: Watch, probe: Callable[[Pod], PodProbe], pod: Pod, others: list[Pod], clients: int, number: int
) -> None:
    """The same burst to both, in the order A B B A; a pod that goes while it is asked leaves the pair out."""
    other = others[number % len(others)] if others else None
    try:
        order = [pod, other] if number % 2 else [other, pod]
        bursts = {id(one): probe(one).burst(clients) for one in order if one is not None}
    except RunbookError:
        return
    new, seen_of_new = bursts[id(pod)]
    judging.use(seen_of_new)
    judging.pair(bursts[id(other)][0] if other is not None else None, new)


def _stuck(
    found: FoundPath, now: Sessions, before: Sessions, new: list[Pod], others: list[Pod]
) -> tuple[dict[str, int], int]:
    """Stuck sessions of each new pod, and the most of an unchanged one.

    Through PgBouncer a session has its address, and a role without pg_read_all_stats sees none: then what has been added
    since counts for all pods together.
    """
    if found.pooler is not None or now.hidden:
        old = sum(before.stuck.values()) + (len(before.transactions) if now.hidden else 0)
        return {"all pods together": max(0, sum(now.stuck.values()) - old)}, 0
    mine = {str(pod["metadata"]["name"]): now.stuck.get(address(pod), 0) for pod in new}
    return mine, max((now.stuck.get(address(pod), 0) for pod in others), default=0)


__all__ = ["ThresholdsMissed", "Watched", "watch"]
