"""What a canary, or a rolling update, is watched for: each threshold, what was seen, and what it decides. Pure; times in seconds.

Where pods of the old setting are still there, a new pod is compared with one of them, by probes that are given to both in
the order A B B A. A threshold that is missed beyond doubt ends the watch at once; one that could not be decided is UNPROVEN.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from drillbook.connections.comparison import FEWEST, P95_SECONDS, Criterion, Decision, interval, ratios
from drillbook.connections.limits import HEADROOM
from drillbook.model import Frozen

TIMEOUT_SHARE = 0.005
"""More than this share of requests that end in a time-out or an error is an alert (the first site's own)."""
FEWEST_BAD = 3
"""Of fewer nothing is concluded: the first request of all may meet a connection of this machine's that breaks."""
SATURATION = 0.8
"""More than this share of a pool in use, or waited for, is an alert (the same)."""
SLOWER, MORE_SECONDS = 1.3, 0.010
"""A p95 that is 30 % higher than the unchanged pod's, and by more than 10 ms, is slower: a smaller pool was expected to add 5
to 10 ms."""
STUCK_SECONDS = 5.0
"""A session that is idle in a transaction for longer is held by somebody who does nothing: a leak, once there are more of them."""
LEAKED = 2
UNWELL_LOOKS = 2
FEWEST_LOOKS = 6


class Gauges(Frozen):
    """What a pod's own metrics say of its pool and its requests; counters since the pod began."""

    active: float
    most: float
    pending: float = 0.0
    timeouts: float = 0.0
    requests: float = 0.0
    failed: float = 0.0


class PodSeen(Frozen):
    """One pod at one look. ``unwell`` is what is wrong with it, "" if it is ready and says that it is well."""

    pod: str
    restarts: int = 0
    unwell: str = ""
    gauges: Gauges | None = None


class Share(Frozen):
    """How much of a limit is in use, and what was there before with the new pods' own pools."""

    limit: str
    used: int
    size: int
    expected: int


class Burst(Frozen):
    """A few requests at once to one pod: the latencies of those that were answered, and how many were not answered well."""

    latencies: tuple[float, ...]
    failed: int = 0

    @property
    def p95(self) -> float:
        """The 95th percentile, by the nearest rank; a request that failed took longer than any other."""
        ranked = [*sorted(self.latencies), *[float("inf")] * self.failed]
        return ranked[max(0, -(-95 * len(ranked) // 100) - 1)] if ranked else float("inf")


class Look(Frozen):
    """What was seen at one time: the new pods, the sessions that somebody holds in idle transactions, shares of limits.

    ``stuck`` are such sessions of each pod, of the new ones and (``stuck_elsewhere``) of those that are unchanged.
    """

    pods: tuple[PodSeen, ...]
    stuck: Mapping[str, int] = {}
    stuck_elsewhere: int = 0
    shares: tuple[Share, ...] = ()


class Watch:
    """Collects looks and pairs of bursts, and judges them."""

    def __init__(self, *, compared: bool, counted: bool) -> None:
        """``compared``: whether there are unchanged pods. ``counted``: whether the pods show their gauges at all."""
        self._compared, self._counted = compared, counted
        self._unwell: dict[str, int] = {}
        self._wrong: dict[str, str] = {}
        self._first: dict[str, PodSeen] = {}
        self._last: dict[str, PodSeen] = {}
        self._use: list[float] = []
        self._stuck: list[tuple[int, int, str]] = []
        self._shares: dict[str, Share] = {}
        self._old: list[float] = []
        self._new: list[float] = []
        self._probes, self._lost = 0, 0
        self.looks = 0

    def add(self, look: Look) -> None:
        """A look at the pods and the sessions."""
        self.looks += 1
        for pod in look.pods:
            self._first.setdefault(pod.pod, pod)
            self._last[pod.pod] = pod
            self._unwell[pod.pod] = self._unwell.get(pod.pod, 0) + 1 if pod.unwell else 0
            if self._unwell[pod.pod] >= UNWELL_LOOKS:
                self._wrong[pod.pod] = pod.unwell
        worst = max(look.stuck.items(), key=lambda item: item[1], default=("", 0))
        self._stuck.append((worst[1], look.stuck_elsewhere, worst[0]))
        for share in look.shares:
            known = self._shares.get(share.limit)
            if known is None or share.used - share.expected > known.used - known.expected:
                self._shares[share.limit] = share

    def use(self, gauges: Sequence[Gauges]) -> None:
        """The pool's gauges while a burst was under way."""
        if gauges:
            # Who waits wants a connection too: a pool of one is as full with one request as with ten.
            self._use.append(statistics.fmean((one.active + one.pending) / one.most for one in gauges if one.most))

    def pair(self, old: Burst | None, new: Burst) -> None:
        """The same requests to an unchanged pod and to a new one; None where no unchanged one is left."""
        self._probes += len(new.latencies) + new.failed
        # What an unchanged pod doesn't answer either is not the new setting's fault.
        self._lost += max(0, new.failed - (old.failed if old is not None else 0))
        if new.latencies and (old is None or old.latencies):
            self._new.append(new.p95 if not new.failed else max(new.latencies))
            if old is not None:
                self._old.append(old.p95 if not old.failed else max(old.latencies))

    @property
    def missed(self) -> list[str]:
        """The thresholds that are missed beyond doubt, in words."""
        return [
            f"{one.name}: {one.measured} (required: {one.required})"
            for one in self.criteria
            if one.decision is Decision.REJECTED
        ]

    @property
    def criteria(self) -> tuple[Criterion, ...]:
        """Every threshold, with what was seen so far."""
        return (
            self._well(),
            self._restarts(),
            self._answered(),
            # Pods that show no gauges are judged by the rest; that it was not seen is a check of its own.
            *([self._saturation()] if self._counted else []),
            self._leak(),
            *self._latency(),
            *self._limits(),
        )

    def _well(self) -> Criterion:
        wrong = "; ".join(f"{pod}: {why}" for pod, why in self._wrong.items())
        enough = self.looks >= UNWELL_LOOKS and self._last
        return Criterion(
            name="health",
            required="every new pod is ready, and says that it is well",
            measured=wrong or f"{', '.join(self._last) or 'no pod'}: well in {self.looks} looks",
            decision=Decision.REJECTED if wrong else Decision.ACCEPTED if enough else Decision.UNPROVEN,
        )

    def _restarts(self) -> Criterion:
        counted = {pod: seen.restarts for pod, seen in self._last.items() if seen.restarts}
        return Criterion(
            name="restarts",
            required="none of a new pod",
            measured=", ".join(f"{pod} {count}" for pod, count in counted.items()) or "none",
            decision=Decision.REJECTED if counted else Decision.ACCEPTED if self.looks else Decision.UNPROVEN,
        )

    def _answered(self) -> Criterion:
        both = [
            (first, last)
            for pod, seen in self._last.items()
            if (first := self._first[pod].gauges) is not None and (last := seen.gauges) is not None
        ]
        timeouts = sum(last.timeouts - first.timeouts for first, last in both)
        failed = sum(last.failed - first.failed for first, last in both)
        requests = sum(last.requests - first.requests for first, last in both)
        # A request that timed out is one that failed, too: the larger of the two is what people have seen.
        bad = max(timeouts, failed, self._lost)
        total = max(requests, self._probes, 1)
        enough = self.looks >= UNWELL_LOOKS and (self._probes > 0 or bool(both))
        over = bad >= FEWEST_BAD and bad > TIMEOUT_SHARE * total
        return Criterion(
            name="timeouts and errors",
            required=f"at most {TIMEOUT_SHARE:.1%} of the requests, or {FEWEST_BAD - 1}",
            measured=f"{bad:.0f} of {total:.0f}: {timeouts:.0f} timed out waiting for a connection"
            + ("" if both else " (the pods show no counters; only the probes' own requests count)"),
            decision=Decision.REJECTED if over else Decision.ACCEPTED if enough else Decision.UNPROVEN,
        )

    def _saturation(self) -> Criterion:
        seen = statistics.fmean(self._use) if self._use else 0.0
        enough = len(self._use) >= FEWEST_LOOKS
        over = seen > SATURATION
        return Criterion(
            name="pool saturation",
            required=f"at most {SATURATION:.0%} of a pool in use or waited for while it is probed",
            measured=f"{seen:.0%} on average in {len(self._use)} bursts",
            decision=Decision.UNPROVEN if not enough else Decision.REJECTED if over else Decision.ACCEPTED,
        )

    def _leak(self) -> Criterion:
        worst = max(self._stuck, key=lambda item: item[0] - item[1], default=(0, 0, ""))
        # One look may fall on a slow transaction; a connection that nobody gives back is there at the next one too.
        lasting = [mine for mine, others, _ in self._stuck[-UNWELL_LOOKS:] if mine >= others + LEAKED]
        leaks = len(lasting) == UNWELL_LOOKS
        at = f" at {worst[2]}" if worst[2] and worst[0] else ""
        return Criterion(
            name="leaked connections",
            required=f"fewer than {LEAKED} sessions more than an unchanged pod has idle in a transaction for over {STUCK_SECONDS:.0f} s",
            measured=f"{worst[0]}{at}, {worst[1]} at an unchanged pod",
            decision=Decision.REJECTED if leaks else Decision.ACCEPTED if self._stuck else Decision.UNPROVEN,
        )

    def _latency(self) -> tuple[Criterion, ...]:
        required = f"p95 below {P95_SECONDS * 1000:.0f} ms"
        if len(self._new) < FEWEST:
            words = f"{len(self._new)} bursts; {FEWEST} are needed for an interval"
            return (Criterion(name="probe latency", required=required, measured=words, decision=Decision.UNPROVEN),)
        seconds = interval(self._new)
        shown = f"{seconds.middle * 1000:.1f} ms ({seconds.low * 1000:.1f} to {seconds.high * 1000:.1f})"
        found = [
            Criterion(
                name="probe latency",
                required=required,
                measured=shown,
                decision=_below(seconds.low, seconds.high, P95_SECONDS),
            )
        ]
        if self._compared and len(self._old) == len(self._new):
            ratio, usual = interval(ratios(self._old, self._new)), statistics.median(self._old)
            bound = max(SLOWER, 1 + MORE_SECONDS / usual)
            found.append(
                Criterion(
                    name="latency alongside an unchanged pod",
                    required=f"p95 less than {bound:.2f} times its {usual * 1000:.1f} ms",
                    measured=f"{ratio}: {ratio.difference}",
                    decision=_below(ratio.low, ratio.high, bound),
                )
            )
        return tuple(found)

    def _limits(self) -> tuple[Criterion, ...]:
        found = []
        for share in self._shares.values():
            allowed = max(HEADROOM * share.size, min(share.expected, share.size))
            over = share.used > allowed
            found.append(
                Criterion(
                    name=f"use of {share.limit}",
                    required=f"at most {HEADROOM:.0%}, or what was there and the new pods' own pools ({share.expected})",
                    measured=f"{share.used} of {share.size} ({share.used / share.size:.0%})",
                    decision=Decision.REJECTED if over else Decision.ACCEPTED,
                )
            )
        return tuple(found)


def _below(low: float, high: float, bound: float) -> Decision:
    if high < bound:
        return Decision.ACCEPTED
    return Decision.REJECTED if low >= bound else Decision.UNPROVEN


def gauges(samples: Mapping[str, float]) -> Gauges | None:
    """A pod's gauges from its metrics, by HikariCP's names; None if they show no pool. Several pools count together.

    ``samples`` are the values by name and labels, as the text has them.
    """

    def total(name: str, where: str = "") -> float:
        return sum(value for key, value in samples.items() if key.partition("{")[0] == name and where in key)

    if not any(key.startswith("hikaricp_connections_max") for key in samples):
        return None
    return Gauges(
        active=total("hikaricp_connections_active"),
        most=total("hikaricp_connections_max"),
        pending=total("hikaricp_connections_pending"),
        timeouts=total("hikaricp_connections_timeout_total"),
        requests=total("http_server_requests_seconds_count"),
        failed=total("http_server_requests_seconds_count", 'status="5'),
    )


__all__ = [
    "STUCK_SECONDS",
    "Burst",
    "Gauges",
    "Look",
    "PodSeen",
    "Share",
    "Watch",
    "gauges",
]
