"""What a site's state is for Prometheus: what can be recovered, what a loss would cost, and which tests are done or owed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from drillbook.evidence.due import Due, SealedRun, State
from drillbook.model import Verdict
from drillbook.profile import Site


@dataclass(frozen=True)
class ArchiveState:
    """The archive at one instant; None is what was not seen.

    ``usable``: the newest base backup and all WAL from it to the end are there. ``damages``: how much else is missing or damaged.
    """

    read_at: datetime
    usable: bool
    until: datetime | None  # the newest commit that a recovery to the end of the archive has
    archived_at: datetime | None  # when the newest segment was archived
    damages: int = 0
    forecast_seconds: float | None = None


@dataclass(frozen=True)
class Evidence:
    """Schedules as they stand, oldest period first, the sealed runs, and how many runs wait for an approval.

    ``pending`` is how many sealed runs are not locked away yet; None where the profile names no bucket for evidence.
    """

    due: tuple[Due, ...]
    runs: tuple[SealedRun, ...]
    waiting: int
    pending: int | None = None


@dataclass(frozen=True)
class Readings:
    """The newest of each; None where it was never read. ``failed`` says why the last attempt was none, by what it read."""

    archive: ArchiveState | None
    evidence: Evidence | None
    failed: dict[str, str]


def families(site: Site, found: Readings) -> Iterable[Metric]:
    """Every family. What is not known has no sample, but for ``drillbook_recoverable``: what was not seen is not recoverable."""
    archive, evidence = found.archive, found.evidence
    seen = archive is not None and "archive" not in found.failed
    usable = seen and archive is not None and archive.usable
    yield _gauge(
        "recoverable",
        "1 if a recovery from the newest base backup reaches the end of the archive; 0 if not, or if it could not be read.",
        site,
        float(usable),
    )
    read = _family("read_failed", "1 if the last reading of this failed.", "of")
    for name in ("archive", "evidence"):
        read.add_metric([site.name, name], float(name in found.failed))
    yield read
    goals = _family("objective_seconds", "What the profile promises.", "objective")
    for name, value in (
        ("recovery time", site.objectives.recovery_time),
        ("recovery point", site.objectives.recovery_point),
        ("archive lag", site.freshness.archive_lag),
    ):
        goals.add_metric([site.name, name], value.total_seconds())
    yield goals
    if archive is not None:
        yield from _of_archive(site, archive)
    if evidence is not None:
        yield from _of_evidence(site, evidence)


def _of_archive(site: Site, found: ArchiveState) -> Iterable[Metric]:
    at = found.read_at.timestamp()
    yield _gauge("archive_read_timestamp_seconds", "When the archive was read.", site, at)
    yield _gauge("archive_damages", "Gaps and damaged objects anywhere in the archive.", site, float(found.damages))
    if found.until is not None:
        yield _gauge(
            "recoverable_until_seconds",
            "The newest commit that a recovery to the end of the archive has, as a Unix time.",
            site,
            found.until.timestamp(),
        )
    if found.archived_at is not None:
        lost = max(0.0, (found.read_at - found.archived_at).total_seconds())
        help_text = "At most so much would be lost with the cluster: since the newest segment was archived. An idle server archives none."
        yield _gauge("loss_if_lost_now_seconds", help_text, site, lost)
    if found.forecast_seconds is not None:
        yield _gauge(
            "forecast_recovery_seconds",
            "How long a recovery to the end is predicted to take.",
            site,
            found.forecast_seconds,
        )


def _of_evidence(site: Site, found: Evidence) -> Iterable[Metric]:
    help_text = "1 if a schedule is in this state: in its current period; while that is not due yet, what is open of the one before."
    due = _family("due", help_text, "runbook", "every", "state")
    for runbook, item in sorted(_standing(found.due).items()):
        for state in State:
            due.add_metric([site.name, runbook, str(item.every), str(state)], float(item.state is state))
    yield due
    last = _family("last_verified_timestamp_seconds", "When the newest run that was VERIFIED began.", "runbook")
    for runbook in sorted({run.runbook for run in found.runs}):
        good = [run.started_at for run in found.runs if run.runbook == runbook and run.counts is Verdict.VERIFIED]
        if good:
            last.add_metric([site.name, runbook], max(good).timestamp())
    yield last
    counted = CounterMetricFamily(
        "drillbook_runs",
        "Sealed runs; altered: its evidence is not what was sealed.",
        labels=["site", "runbook", "verdict"],
    )
    words = ("altered" if run.altered else str(run.verdict or "none") for run in found.runs)
    for (runbook, verdict), number in sorted(
        Counter(zip((run.runbook for run in found.runs), words, strict=True)).items()
    ):
        counted.add_metric([site.name, runbook, verdict], float(number))
    yield counted
    if found.pending is not None:
        yield _gauge("archive_pending", "Sealed runs that are not locked away yet.", site, float(found.pending))
    yield _gauge("runs_waiting", "Runs that wait for an approval, or stopped midway.", site, float(found.waiting))


def _standing(found: Sequence[Due]) -> dict[str, Due]:
    """Each schedule as it stands. A period in which nothing ran is missing only once it is over: the next one must not hide it."""
    known: dict[str, Due] = {}
    for item in found:  # the newest period comes last
        before = known.get(item.runbook)
        if item.state is not State.WAITING or before is None or before.state in (State.DONE, State.DONE_LATE):
            known[item.runbook] = item
    return known


def text(site: Site, found: Readings) -> bytes:
    """Everything in Prometheus' text format."""
    return _rendered(families(site, found))


def due_text(site: Site, due: Sequence[Due], runs: Sequence[SealedRun], pending: int | None) -> str:
    """The part that ledger and records alone say, for a node exporter's textfile."""
    return _rendered(_of_evidence(site, Evidence(tuple(due), tuple(runs), 0, pending))).decode()


class _Once(Collector):
    def __init__(self, found: Iterable[Metric]) -> None:
        self._found = list(found)

    def collect(self) -> Iterable[Metric]:
        return self._found


def _rendered(found: Iterable[Metric]) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Once(found))
    return bytes(generate_latest(registry))


def _family(name: str, help_text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"drillbook_{name}", help_text, labels=["site", *labels])


def _gauge(name: str, help_text: str, site: Site, value: float) -> GaugeMetricFamily:
    found = _family(name, help_text)
    found.add_metric([site.name], value)
    return found


__all__ = ["ArchiveState", "Evidence", "Readings", "due_text", "families", "text"]
