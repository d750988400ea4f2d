"""What a week shows of the backups: made each day by a schedule, kept and removed as promised, safe in the bucket, and seen."""

from __future__ import annotations

import http.client
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, ClassVar

from cronsim import CronSim, CronSimError
from prometheus_client.parser import text_string_to_metric_families

from drillbook import kube as k8s
from drillbook.archive.folder import BackupStatus
from drillbook.archive.location import PLUGIN
from drillbook.archive.retention import retention_period
from drillbook.engine.step import CheckStep, Context
from drillbook.model import Check, Verdict, parse_instant, show_instant, show_seconds
from drillbook.profile import size_bytes
from drillbook.report.cards import show_bytes
from drillbook.steps.archive.reading import ArchiveReading
from drillbook.steps.preflight.readiness import SourceCluster

DAYS = 3
CERTIFICATE_SECONDS = 14 * 86_400
METRICS_PORT = 9187
FAMILIES = {
    True: "barman_cloud_cloudnative_pg_io_last_available_backup_timestamp",
    False: "cnpg_collector_last_available_backup_timestamp",
}
"""Which metric says when the newest base backup was made: the plugin's, or the in-tree one's."""
_DAILY = {"@hourly": "0 0 * * * *", "@daily": "0 0 0 * * *", "@midnight": "0 0 0 * * *", "@weekly": "0 0 0 * * 0"}


@dataclass(frozen=True)
class BackupEachDay(CheckStep):
    """A base backup ended on each of the last days, by what is in the bucket."""

    reading: ArchiveReading
    name: ClassVar[str] = "a backup each day"
    proves: ClassVar[str] = "base backups are made day by day, and not only once"

    def observe(self, ctx: Context) -> Sequence[Check]:
        every, now = ctx.site.freshness.backup_age, self.reading.read_at
        ended = [item.at for folder in self.reading.folders for item in folder.backups if item.at and not item.reason]
        expected = f"one in each of the last {DAYS} periods of {show_seconds(every.total_seconds())}"
        if not ended:
            return [self.result(Verdict.FAILED, expected=expected, observed="no usable base backup")]
        periods = [(now - every * (n + 1), now - every * n) for n in range(DAYS)]
        # Before the first backup there was no archive that could have held one.
        asked = [period for period in periods if min(ended) < period[1] - every / 2] or periods[:1]
        empty = [begin for begin, end in asked if not any(begin < at <= end for at in ended)]
        young = f"the archive begins at {show_instant(min(ended))}" if len(asked) < DAYS else ""
        observed = f"{len(asked) - len(empty)} of {len(asked)}" + (
            f"; none from {', '.join(show_instant(begin) for begin in empty)} on" if empty else ""
        )
        return [
            self.result(
                Verdict.FAILED if empty else Verdict.VERIFIED, expected=expected, observed=observed, reason=young
            )
        ]


@dataclass(frozen=True)
class BackupSchedule(CheckStep):
    """A ScheduledBackup of this cluster is in force, with CloudNativePG's six fields, at least as often as promised."""

    cluster: SourceCluster
    name: ClassVar[str] = "schedule"
    proves: ClassVar[str] = "the next base backup will be made by itself"

    def observe(self, ctx: Context) -> Sequence[Check]:
        every = ctx.site.freshness.backup_age
        found = [
            item
            for item in ctx.kube.list(k8s.SCHEDULED_BACKUP, self.cluster.ref.namespace)
            if item["spec"].get("cluster", {}).get("name") == self.cluster.ref.name
        ]
        faults = {item["metadata"]["name"]: schedule_faults(item, every) for item in found}
        good = [name for name, wrong in faults.items() if not wrong]
        summary = [f"{name}: {'; '.join(wrong) or 'in force'}" for name, wrong in faults.items()]
        return [
            self.result(
                Verdict.VERIFIED if good else Verdict.FAILED,
                expected=f"a ScheduledBackup, not suspended, at least every {show_seconds(every.total_seconds())}",
                observed="; ".join(summary)
                or f"no ScheduledBackup names Cluster {self.cluster.ref}: nothing schedules backups",
            )
        ]


def schedule_faults(scheduled: dict[str, Any], every: timedelta, now: datetime | None = None) -> list[str]:
    """What keeps a ScheduledBackup from making a backup at least ``every`` so often; pure but for the clock."""
    spec = scheduled["spec"]
    written = str(spec.get("schedule", ""))
    faults = ["suspended"] if spec.get("suspend") else []
    fields = _DAILY.get(written, written).split()
    if written.startswith("@every "):
        return faults  # a distance: CloudNativePG's own admission has read it
    if len(fields) != 6:
        return [
            *faults,
            f"schedule {written!r} has {len(fields)} fields: CloudNativePG's have six, the first are seconds",
        ]
    try:
        following = CronSim(" ".join(fields[1:]), now or datetime.now(UTC))
        starts = [next(following) for _ in range(60)]
    except (CronSimError, StopIteration):
        return [*faults, f"schedule {written!r} can't be read"]
    longest = max(later - earlier for earlier, later in pairwise(starts))
    if longest > every:
        faults.append(f"{written!r} leaves {show_seconds(longest.total_seconds())} between two backups")
    return faults


@dataclass(frozen=True)
class RetentionWorks(CheckStep):
    """What retention should have deleted is gone, and what it keeps reaches back as far as it promises."""

    reading: ArchiveReading
    name: ClassVar[str] = "retention"
    proves: ClassVar[str] = "the archive neither grows forever nor forgets too early"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        policy, now = ctx.archive.retention_policy, self.reading.read_at
        period = retention_period(policy)
        if period is None:
            return [
                self.result(
                    Verdict.UNPROVEN,
                    expected="a retentionPolicy",
                    observed="none: CloudNativePG deletes nothing",
                    reason="whether the bucket's lifecycle removes anything is not known here",
                )
            ]
        current = self.reading.current
        late = [item for item in current.backups if item.goes_at and now - item.goes_at > timedelta(days=2)]
        usable = [item for item in current.backups if item.at and not item.reason]
        oldest = min((item.at for item in usable if item.at), default=None)
        reaches = show_seconds((now - oldest).total_seconds()) if oldest else "nothing"
        return [
            self.result(
                Verdict.FAILED if late else Verdict.VERIFIED,
                expected=f"{policy}: nothing that it deletes is there two days later",
                observed=f"{len(late)} should be gone, the first {late[0].backup_id}"
                if late
                else f"reaches back {reaches}",
                reason="" if oldest and now - oldest >= period else f"the archive is younger than {policy}",
            )
        ]


@dataclass(frozen=True)
class BucketSafeguards(CheckStep):
    """What the bucket does against loss, as far as this key may read it: versioning, encryption, lock, replication, lifecycle."""

    cluster: SourceCluster
    name: ClassVar[str] = "bucket"
    proves: ClassVar[str] = "a deleted or overwritten object can be had back, and a copy is elsewhere"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        found = ctx.store.safeguards()
        return [
            self.result(
                Verdict.UNPROVEN if value is None else Verdict.VERIFIED if value else Verdict.FAILED,
                name=f"bucket {name}",
                expected="set",
                observed=value or ("not set" if value == "" else ""),
                reason="this key may not read it" if value is None else "",
            )
            for name, value in found.items()
        ]


@dataclass(frozen=True)
class Growth(CheckStep):
    """How fast the data grows, by the sizes that the base backups note, and when the volume is full at that rate."""

    cluster: SourceCluster
    reading: ArchiveReading
    name: ClassVar[str] = "growth"
    proves: ClassVar[str] = "the volume does not fill within a month"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        spec = ctx.cluster_object(self.cluster.ref)["spec"]
        capacity = size_bytes(str(spec.get("storage", {}).get("size") or "0"))
        sizes = [(item.at, item.size_bytes) for item in self._usable() if item.at]
        expected = "at least 30 days"
        if len(sizes) < 2 or not capacity:
            reason = "fewer than two base backups" if capacity else "the Cluster names no size"
            return [self.result(Verdict.UNPROVEN, expected=expected, reason=reason)]
        (first, before), (last, after) = sizes[0], sizes[-1]
        seconds = (last - first).total_seconds()
        if seconds < 86_400:
            return [
                self.result(Verdict.UNPROVEN, expected=expected, reason="the base backups are less than a day apart")
            ]
        daily = (after - before) / seconds * 86_400
        left = (capacity - after) / daily if daily > 0 else None
        summary = f"{show_bytes(after)} of {show_bytes(capacity)}, {show_bytes(max(0, round(daily)))} a day"
        return [
            self.result(
                Verdict.VERIFIED if left is None or left >= 30 else Verdict.FAILED,
                expected=expected,
                observed=summary + (f": {left:.0f} days left" if left is not None else ": it does not grow"),
                reason="by the stored sizes of base backups: compressed ones grow less than the volume",
            )
        ]

    def _usable(self) -> list[BackupStatus]:
        return [item for folder in self.reading.folders for item in folder.backups if not item.reason]


@dataclass(frozen=True)
class CertificatesValid(CheckStep):
    """The cluster's certificates have more than two weeks left; CloudNativePG renews its own a week before."""

    cluster: SourceCluster
    name: ClassVar[str] = "certificates"
    proves: ClassVar[str] = "no connection ends with an expired certificate"

    def observe(self, ctx: Context) -> Sequence[Check]:
        status = ctx.cluster_object(self.cluster.ref).get("status", {}).get("certificates") or {}
        expected = f"{CERTIFICATE_SECONDS // 86_400} days left on each"
        dates = {name: go_time(text) for name, text in (status.get("expirations") or {}).items()}
        known = {name: at for name, at in dates.items() if at is not None}
        if not known or len(known) < len(dates):
            reason = (
                "the Cluster's status names no expiration"
                if not dates
                else f"not a time: {sorted(dates.keys() - known.keys())}"
            )
            return [self.result(Verdict.UNPROVEN, expected=expected, reason=reason)]
        name, first = min(known.items(), key=lambda pair: pair[1])
        left = (first - datetime.now(UTC)).total_seconds()
        return [
            self.result(
                Verdict.VERIFIED if left > CERTIFICATE_SECONDS else Verdict.FAILED,
                expected=expected,
                observed=f"{name} until {show_instant(first)}, {show_seconds(max(left, 0))} left",
            )
        ]


def go_time(text: object) -> datetime | None:
    """``2027-02-01 10:00:00 +0000 UTC`` as Go prints it."""
    words = str(text).split()
    try:
        return parse_instant(f"{words[0]}T{words[1]}{words[2][:3]}:{words[2][3:]}") if len(words) >= 3 else None
    except ValueError:
        return None


@dataclass(frozen=True)
class MetricsAlive(CheckStep):
    """The metric by which dashboards and alerts see backups says what the bucket says: it is neither dead nor frozen."""

    cluster: SourceCluster
    reading: ArchiveReading
    name: ClassVar[str] = "backup metric"
    proves: ClassVar[str] = "an alert on the age of the newest backup would fire when it should, and only then"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        plugin = ctx.archive.method == PLUGIN
        mine, other = FAMILIES[plugin], FAMILIES[not plugin]
        newest = max((item.at for item in self.reading.current.backups if item.at and not item.reason), default=None)
        expected = f"{mine} is the newest base backup in the bucket"
        if newest is None:
            return [self.result(Verdict.UNPROVEN, expected=expected, reason="there is no base backup to compare with")]
        try:
            served = self._scrape(ctx)
        except (OSError, http.client.HTTPException, ValueError) as error:
            return [self.result(Verdict.UNPROVEN, expected=expected, reason=f"{self.cluster.primary}: {error}")]
        seen = served.get(mine)
        said = (
            "it is not served"
            if seen is None
            else f"{seen:.0f}"
            if seen <= 0
            else show_instant(datetime.fromtimestamp(seen, UTC))
        )
        well = seen is not None and abs(seen - newest.timestamp()) < 3600
        dead = other in served and served[other] <= 0
        return [
            self.result(
                Verdict.VERIFIED if well else Verdict.FAILED,
                expected=f"{expected}: {show_instant(newest)}",
                observed=said,
                reason=f"{other} is 0 here: an alert on it says nothing of these backups" if dead else "",
            )
        ]

    def _scrape(self, ctx: Context) -> dict[str, float]:
        with ctx.kube.forward(self.cluster.ref.namespace, self.cluster.primary, METRICS_PORT) as forward:
            connection = http.client.HTTPConnection(forward.host, forward.port, timeout=30)
            try:
                connection.request("GET", "/metrics", headers={"Host": self.cluster.primary})
                text = connection.getresponse().read().decode()
            finally:
                connection.close()
        return {
            sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples
        }


@dataclass(frozen=True)
class SupportedMethod(CheckStep):
    """How the cluster is archived is a way that CloudNativePG goes on to support."""

    cluster: SourceCluster
    name: ClassVar[str] = "method"
    proves: ClassVar[str] = "an upgrade of the operator does not end the backups"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        plugin = ctx.archive.method == PLUGIN
        return [
            self.result(
                Verdict.VERIFIED if plugin else Verdict.FAILED,
                expected="the Barman Cloud Plugin",
                observed="the Barman Cloud Plugin"
                if plugin
                else "in-tree barmanObjectStore, deprecated since CloudNativePG 1.26",
                reason=""
                if plugin
                else "move to an ObjectStore of the plugin while archiving is current, then run the monthly drill",
            )
        ]


__all__ = [
    "BackupEachDay",
    "BackupSchedule",
    "BucketSafeguards",
    "CertificatesValid",
    "Growth",
    "MetricsAlive",
    "RetentionWorks",
    "SupportedMethod",
    "go_time",
    "schedule_faults",
]
