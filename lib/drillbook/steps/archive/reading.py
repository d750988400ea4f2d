"""The whole archive as one reading: every folder that the cluster's history is in, at one instant."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from drillbook import archive as objectstore
from drillbook import kube as k8s
from drillbook.archive import ArchiveFinding, DatedGap, KnownBackup, Period, Reading
from drillbook.engine.step import Context
from drillbook.errors import KubernetesError, NotReady
from drillbook.model import ArchivedCommit, Frozen, Instant, parse_instant, show_instant

_UNITS = {"ms": 0.001, "s": 1, "min": 60, "h": 3600, "d": 86400, "": 1}
_NO_BUCKET = "volumeSnapshot"  # such a Backup's data is in no bucket


class ArchiveReading(Frozen):
    """What the archive holds of one cluster. ``folders`` are oldest first; the last is the one archived to now."""

    location: str
    read_at: Instant
    folders: tuple[Reading, ...]

    @property
    def current(self) -> Reading:
        """The folder that is archived to now."""
        return self.folders[-1]

    @property
    def periods(self) -> tuple[Period, ...]:
        """Every instant that can be reached, oldest first; between two periods lies one that can't."""
        return tuple(period for folder in self.folders for period in folder.periods)

    @property
    def gaps(self) -> tuple[DatedGap, ...]:
        return tuple(gap for folder in self.folders for gap in folder.reach.gaps)

    @property
    def newest(self) -> ArchivedCommit | None:
        """The newest commit that can be reached."""
        found = [folder.reach.newest for folder in self.folders if folder.reach.newest is not None]
        return found[-1] if found else None

    @property
    def damages(self) -> tuple[ArchiveFinding, ...]:
        """What costs instants for good."""
        return tuple(item for folder in self.folders for item in folder.damages)

    @property
    def passing(self) -> tuple[ArchiveFinding, ...]:
        """What may well resolve itself."""
        return tuple(item for folder in self.folders for item in folder.passing)

    @property
    def spare(self) -> tuple[ArchiveFinding, ...]:
        """What takes room and costs nothing."""
        return tuple(item for folder in self.folders for item in folder.spare)

    @property
    def whole(self) -> bool:
        """Whether nothing is missing or damaged, and what is archived now can be recovered."""
        current = self.current.reach
        usable = bool(current.backups and current.periods) and not current.backups[-1].problem
        return usable and not (self.gaps or self.damages or self.passing or current.damaged)

    @property
    def todo(self) -> tuple[str, ...]:
        """What to do, most urgent first; empty for a healthy archive."""
        lines = [*self.current.reach.todo, *(line for folder in self.folders[:-1] for line in _older(folder))]
        told = " ".join(lines)
        return (*lines, *(_todo(item) for item in self.damages if not (item.segment and item.segment in told)))

    def rows(self) -> list[tuple[str, str]]:
        """As a card shows it."""
        rows: list[tuple[str, str]] = [("location", self.location), ("read at", show_instant(self.read_at))]
        for folder in self.folders:
            survey, newest = folder.survey, folder.reach.newest_segment
            rows.append(
                (
                    f"under {folder.server_name}",
                    f"base backups: {survey.backups}, usable: {len(folder.reach.backups)}; WAL segments: {survey.segments:,}, "
                    f"the newest {newest or 'none'}",
                )
            )
        return rows

    @property
    def drawing(self) -> dict[str, Any]:
        """As the picture wants it: plain data, instants as text."""
        drawn = [folder.reach.drawn for folder in self.folders]
        return {
            "server": ", then ".join(folder.server_name for folder in self.folders),
            "now": show_instant(self.read_at),
            "backups": [item for one in drawn for item in one["backups"]],
            "periods": [{"first": show_instant(one.first), "last": show_instant(one.last)} for one in self.periods],
            "gaps": [item for one in drawn for item in one["gaps"]],
            "wal_to": drawn[-1]["wal_to"],
            "target": "",
            "lines": [
                {"server": one["server"], "from": one["backups"][0]["at"], "to": one["wal_to"]}
                for one in drawn
                if one["backups"] and one["wal_to"]
            ],
        }


def read_archive(
    ctx: Context,
    *,
    system_id: str = "",
    timeline: int = 0,
    samples: int | None = None,
    read_through: int = objectstore.READ_THROUGH,
    checked: int = objectstore.SAMPLES,
) -> ArchiveReading:
    """List the archive, read its newest commits, and look for damage; changes nothing, asks no SQL.

    ``samples`` WAL segments of each folder are read (``None``: as many as a survey reads), ``read_through`` stored
    bytes of each newest base backup, and ``checked`` segments of the newest chain with every record's checksum.
    Raises what the API server and the object store answer; an archive without a usable backup is no error here.
    NotReady: the Cluster's retentionPolicy can't be read. PreconditionError: nothing says which of several systems or
    timelines in a folder is the cluster's; both are named.
    """
    archive, now = ctx.archive, datetime.now(UTC)
    cluster = ctx.kube.get(k8s.CLUSTER, ctx.source_ref.namespace, ctx.source_ref.name) or {}  # it may be lost
    status = cluster.get("status", {})
    system_id = system_id or str(status.get("systemID", "")) or ctx.site.identity.system_identifier
    timeline = timeline or int(status.get("timelineID") or 0)
    known = known_backups(ctx)
    asked: objectstore.SurveyOptions = {"read_through": read_through, "now": now, "system_id": system_id}
    asked["archive_timeout_seconds"] = archive_timeout_seconds(cluster)
    spaces = [str(item["name"]) for item in cluster.get("spec", {}).get("tablespaces") or ()]
    if samples is not None:
        asked["samples"] = samples
    folders: list[Reading] = []
    for period in archive.folders:
        current = period.name == archive.server_name
        ctx.recorder.progress(f"reading {period.name}")
        # Of a cluster that was rebuilt under its name the older Backup objects stay: they speak of older folders.
        elsewhere = {item.backup_id for folder in folders for item in folder.backups}
        mine = [item for item in known or () if item.backup_id not in elsewhere]
        asked["timeline"] = archive.timeline_in(period.name, timeline)
        asked["tablespaces"] = spaces if current else ()
        asked["known"] = mine if current and known is not None else None
        try:
            found = objectstore.read_folder(
                ctx.store,
                period.name,
                since=period.since,
                until=period.until,
                retention_policy=archive.retention_policy if current else "",
                checked=checked if current else 0,
                **asked,
            )
        except ValueError as error:
            raise NotReady([str(error)], where=f"Cluster {ctx.source_ref}") from error
        folders.append(found)
    return ArchiveReading(location=ctx.store.location, read_at=now, folders=tuple(folders))


def known_backups(ctx: Context) -> list[KnownBackup] | None:
    """The cluster's Backup objects whose data must be in the bucket; ``None`` if the API server doesn't show them."""
    try:
        items = ctx.kube.list(k8s.BACKUP, ctx.source_ref.namespace)
    except KubernetesError:
        return None
    return [
        _known(item)
        for item in items
        if item["spec"].get("cluster", {}).get("name") == ctx.source_ref.name
        and item["spec"].get("method") != _NO_BUCKET
    ]


def _known(item: dict[str, Any]) -> KnownBackup:
    status: dict[str, Any] = item.get("status", {})
    started = status.get("startedAt")
    return KnownBackup(
        name=item["metadata"]["name"],
        phase=str(status.get("phase", "")),
        backup_id=str(status.get("backupId", "")),
        started_at=parse_instant(started) if started else None,
    )


def archive_timeout_seconds(cluster: dict[str, Any]) -> float:
    """``archive_timeout`` as the Cluster sets it, else CloudNativePG's default; 0 (never) counts as the default."""
    text = str(cluster.get("spec", {}).get("postgresql", {}).get("parameters", {}).get("archive_timeout", ""))
    found = re.fullmatch(r"\s*(\d+)\s*(ms|s|min|h|d|)\s*", text)
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0.0
    return seconds or objectstore.ARCHIVE_TIMEOUT_SECONDS


def _older(folder: Reading) -> Iterable[str]:
    """A folder that is archived to no more gets no new base backup: only its WAL can be fixed."""
    return (f"{gap.broken}. {gap.broken.todo}" for gap in folder.reach.gaps)


def _todo(item: ArchiveFinding) -> str:
    where = f" ({item.key})" if item.key else ""
    if item.todo:
        return f"{item.what}. {item.todo}"
    return f"{item.what}{where}. Bring the object back from another copy of the bucket, or take a new base backup."


__all__ = ["ArchiveReading", "archive_timeout_seconds", "known_backups", "read_archive"]
