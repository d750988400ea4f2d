"""What a run has learned, as one model: steps note it once, by name and type; judge and report read it by attribute.

In the journal each fact is an event of its own, a name and a JSON value; of a name noted twice the later one holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from drillbook.model import Frozen, Instant, show_instant

Json = Mapping[str, Any]
"""A value that is only shown, as it was noted."""


class Noted(BaseModel):
    """A value of which code reads the named parts; whatever else was noted with it is kept, and shown."""

    model_config = ConfigDict(frozen=True, extra="allow")

    @classmethod
    def of(cls, value: BaseModel, **more: Any) -> Self:
        """As the steps' own models have it, with ``more`` that only the record keeps."""
        return cls.model_validate(value.model_dump(mode="json") | more)


class Achieved(Noted):
    """In seconds; None: nothing was measured."""

    recovery_seconds: float | None = None
    recovery_point_seconds: float | None = None
    pitr_seconds: float | None = None


class MeasuredLag(Noted):
    """How far the archive was behind the newest commit before the run, in seconds."""

    seconds: float | None = None


class ArchivedBy(Noted):
    method: str
    location: str


class NotedBackup(Noted):
    backup_id: str = ""
    size_bytes: int | None = None
    end_time: str = ""


class NotedCluster(Noted):
    namespace: str = ""
    name: str = ""
    uid: str = ""
    system_id: str = ""


class Cut(Noted):
    """What was put into service, and when; ``kept`` is the database that was put aside, where it was one."""

    kept: str = ""


class Drain(Noted):
    """When the application was scaled down, and how many replicas it had before."""

    began_at: Instant
    replicas_before: int


class NotedPhase(Noted):
    """A phase of a recovery as it is predicted, in seconds; None: unknown."""

    name: str
    seconds: float | None = None
    low: float | None = None
    high: float | None = None


class NotedForecast(NotedPhase):
    """The recovery time as it is predicted, and its phases."""

    name: str = "recovery"
    phases: tuple[NotedPhase, ...] = ()


class Outage(Noted):
    deployment: str
    seconds: float


class Reached(Noted):
    """Where a recovery ended, by PostgreSQL's own log."""

    last_segment: str = ""


class RecoveryTime(Noted):
    target_time: str | None = None


class NotedCommit(Noted):
    xid: int
    lsn: str
    committed_at: str


class RequestedTarget(Noted):
    """The target that was chosen, and the commits on either side of it."""

    target: RecoveryTime = RecoveryTime()
    last_before: NotedCommit | None = None
    first_after: NotedCommit | None = None


class DamagingCommit(NotedCommit):
    """A commit that removed rows or tables; ``weight`` is how many rows, 0 for none."""

    database: str
    what: str
    weight: int


class Damage(Noted):
    found: tuple[DamagingCommit, ...] = ()


class SalvagedSegments(Noted):
    segments: tuple[str, ...] = ()


class TestKind(Noted):
    """What kind of test a run was, in the words of its record."""

    __test__ = False  # no test of pytest's
    type: str


class VolumeWal(Noted):
    """What the old primary's volume held of WAL; ``unarchived`` are segments that the archive lacked."""

    pod: str = ""
    primary: bool = False
    runs: bool = False
    newest: str = ""
    unarchived: tuple[str, ...] = ()


class Window(Noted):
    """The first and the last instant that can be recovered."""

    first_time: str
    last_time: str


class TenantLoss(Frozen):
    """One database: its newest commit on each side of the target, and how many commits come after it."""

    database: str
    in_copy: Instant | None = None
    in_production: Instant | None = None
    commits: int = 0

    @property
    def seconds(self) -> float:
        """How much time of this tenant's work is after the target."""
        if not self.commits or self.in_production is None:
            return 0.0
        return (self.in_production - self.in_copy).total_seconds() if self.in_copy else 0.0

    def __str__(self) -> str:
        copy = _shown(self.in_copy, "older than what was read")
        if not self.commits:
            return f"nothing: newest commit {copy}, on both sides"
        return (
            f"{self.commits} commits: newest in the copy {copy}, in production {_shown(self.in_production, 'unknown')}"
        )


def _shown(at: datetime | None, unknown: str) -> str:
    return show_instant(at) if at else unknown


class Facts(Frozen):
    """Everything that a run may learn; None: it has not. A step notes one or more of them, the run holds them all."""

    achieved: Achieved | None = None
    answer: str | None = None
    archive_lag: MeasuredLag | None = None
    archived_by: ArchivedBy | None = None
    backup: NotedBackup | None = None
    backup_after_the_cut: NotedBackup | None = None
    backup_before_the_cut: NotedBackup | None = None
    backup_before_the_change: NotedBackup | None = None
    chain: Json | None = None
    claim: str | None = None
    cleanup_failed: str | None = None
    cluster: NotedCluster | None = None
    connection_change: Json | None = None
    connection_watch: Json | None = None
    connections: Json | None = None
    connections_after: Json | None = None
    connections_before: Json | None = None
    copy_: Json | None = None
    cut: Cut | None = None
    damage: Damage | None = None
    drain: Drain | None = None
    forecast: NotedForecast | None = None
    index_change: Json | None = None
    index_claims: Json | None = None
    index_migration: Json | None = None
    indexes_after: Json | None = None
    indexes_before: Json | None = None
    indexes_built: tuple[Json, ...] | None = None
    indexes_dropped: tuple[Json, ...] | None = None
    load_comparison: Json | None = None
    load_curve: Json | None = None
    long_term: Json | None = None
    long_term_rows: Json | None = None
    losses: tuple[TenantLoss, ...] | None = None
    no_backup_before_the_cut: str | None = None
    no_salvage_because: str | None = None
    node_is_down_because: str | None = None
    not_transferred: tuple[tuple[str, str], ...] | None = None
    old_cluster_serves: bool | None = None
    outage: Outage | None = None
    quarantine: Json | None = None
    reach: Json | None = None
    reached: Reached | None = None
    removed: Json | None = None
    replaced: str | None = None
    replacement: Json | None = None
    replacement_reached: Reached | None = None
    rights: Json | None = None
    rows_back: tuple[Json, ...] | None = None
    salvaged: SalvagedSegments | None = None
    stall_while_built: Json | None = None
    stall_while_dropped: Json | None = None
    superuser_on_source: Json | None = None
    swap_fits: Json | None = None
    target: RequestedTarget | None = None
    test: TestKind | None = None
    to_transfer: Json | None = None
    transferred: Json | None = None
    undoes: Json | None = None
    versions: Json | None = None
    wal_on_volume: VolumeWal | None = None
    window: Window | None = None
    written_after_the_cut: Json | None = None
    written_since: Json | tuple[Any, ...] | None = None

    def json_values(self) -> dict[str, Any]:
        """What was noted, by its name in the journal."""
        dumped = self.model_dump(mode="json", exclude_unset=True)
        return {name.rstrip("_"): value for name, value in dumped.items()}

    def and_(self, later: Facts) -> Facts:
        """These with ``later`` ones, which replace those of the same name."""
        return self.model_copy(update={name: getattr(later, name) for name in later.model_fields_set})

    @classmethod
    def read(cls, noted: Json) -> Facts:
        """From a journal's values; one that another version noted, and that means nothing here, is left out."""
        known = {name: noted[key] for name in cls.model_fields if (key := name.rstrip("_")) in noted}
        try:
            return cls.model_validate(known)
        except ValidationError as error:
            strange = {fault["loc"][0] for fault in error.errors()}
            return cls.model_validate({name: value for name, value in known.items() if name not in strange})


def noted(events: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The facts in a journal as they were noted, by name; of a name noted twice the later one."""
    return {event["name"]: event["value"] for event in events if event["type"] == "fact"}


def facts(events: Iterable[Mapping[str, Any]]) -> Facts:
    """What the run whose journal holds ``events`` has learned."""
    return Facts.read(noted(events))
