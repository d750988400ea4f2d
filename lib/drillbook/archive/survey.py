"""What is wrong with an archive, before anybody relies on it: every damage by name, with the object or segment.

Determined from listings, ``backup.info`` and history files, the ends of the base backups' tars, and a sample of the
WAL; what was not read is said. Only listing and getting is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple, TypedDict, Unpack

from drillbook.archive.catalogue import BackupState, Catalogue, catalogue
from drillbook.archive.gaps import ARCHIVE_TIMEOUT_SECONDS, BrokenWal, WalState, broken_wal, uploading
from drillbook.archive.layout import WalListing, wal_names, wal_prefix
from drillbook.archive.protocol import ObjectStore
from drillbook.archive.sampling import SAMPLES, read_sample, sample_names
from drillbook.archive.snapshot import LOOK_BACK, ArchiveSnapshot
from drillbook.archive.systems import own_system, system_of
from drillbook.archive.tar_check import READ_THROUGH, TarState, check_tars
from drillbook.archive.timelines import Stray, way_to
from drillbook.archive.wal_files import histories, read_history
from drillbook.errors import ObjectStoreError, WalGap
from drillbook.model import BaseBackup, Frozen, show_instant
from drillbook.postgres.wal import Histories, Switch

RUNNING = frozenset({"", "pending", "started", "running", "finalizing", "walArchivingFailing"})
MOST_GAPS = 8
NEW_TIMELINE, STRAY_TIMELINE = "new timeline", "stray timeline"
_NEVER_COMPLETE = {BackupState.UNFINISHED, BackupState.FAILED, BackupState.FOREIGN, BackupState.SNAPSHOT}


@dataclass(frozen=True)
class KnownBackup:
    """A Backup object as Kubernetes has it, of this cluster and store: what it claims is held against the bucket."""

    name: str
    phase: str
    backup_id: str = ""
    started_at: datetime | None = None


class ArchiveFinding(Frozen):
    """One damage. ``what`` is the sentence; ``key`` the object in the store, "" where none is there; ``segment`` the WAL.

    ``todo`` says what to do where that is not to bring the object back. ``spare``: a base backup that nothing says
    was ever complete, or another system's: it takes room, and costs no instant.
    """

    state: str
    what: str
    key: str = ""
    segment: str = ""
    backup_id: str = ""
    spare: bool = False
    todo: str = ""

    @property
    def passing(self) -> bool:
        """Whether it may well pass by itself: look again before anything is done."""
        return self.state in {WalState.DELAYED, WalState.UPLOADING, NEW_TIMELINE}


class ArchiveSurvey(Frozen):
    """What one server's archive holds and what is wrong with it; ``read`` says how deep it was looked at.

    ``notes`` are worth knowing and cost nothing.
    """

    server_name: str
    backups: int
    usable: int
    stored_bytes: int
    segments: int
    findings: tuple[ArchiveFinding, ...]
    read: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def damages(self) -> tuple[ArchiveFinding, ...]:
        """What costs instants that could be recovered, for good."""
        return tuple(item for item in self.findings if not item.spare and not item.passing)


class SurveyResult(NamedTuple):
    """A survey, and the listings that it was made from.

    A backup with a broken tar is not among those of ``held``, nor one that no WAL leads from to the cluster's timeline:
    ``aside`` says why, by its id.
    """

    survey: ArchiveSurvey
    catalogue: Catalogue
    held: ArchiveSnapshot
    aside: Mapping[str, str]


class SurveyOptions(TypedDict, total=False):
    """What a survey may be given, and how deep it reads: the arguments of `look`."""

    system_id: str
    timeline: int
    tablespaces: Sequence[str]
    known: Sequence[KnownBackup] | None
    samples: int
    read_through: int
    now: datetime | None
    archive_timeout_seconds: float


def survey(store: ObjectStore, server_name: str, **asked: Unpack[SurveyOptions]) -> ArchiveSurvey:
    """Look at all that ``server_name`` has in the archive; `look` says what it may be given, and what it raises."""
    return look(store, server_name, **asked).survey


def kept(store: ObjectStore, server_name: str, *, system_id: str = "", timeline: int = 0) -> ArchiveSnapshot:
    """What of a folder is the cluster's: its system, its timeline and the usable base backups that lead there.

    ``system_id`` and ``timeline`` as in `look`, which decides by the same rules; raises what it raises.
    """
    listing = wal_names(store, server_name)
    system_id = system_id or own_system(store, listing, catalogue(store, server_name))
    usable = tuple(catalogue(store, server_name, system_id=system_id).usable)
    return _kept(
        ArchiveSnapshot(store, listing, usable, histories(store, listing, needed=timeline), system_id, timeline)
    )[0]


def _kept(every: ArchiveSnapshot) -> tuple[ArchiveSnapshot, dict[str, str]]:
    """The holdings with the base backups that WAL leads from to the cluster's timeline, and why each other one doesn't."""
    aside = {backup.backup_id: why for backup in every.backups if (why := every.unreachable(backup))}
    backups = tuple(backup for backup in every.backups if backup.backup_id not in aside)
    return replace(every, backups=backups, timeline=every.own), aside


def look(
    store: ObjectStore,
    server_name: str,
    *,
    system_id: str = "",
    timeline: int = 0,
    tablespaces: Sequence[str] = (),
    known: Sequence[KnownBackup] | None = None,
    samples: int = SAMPLES,
    read_through: int = READ_THROUGH,
    now: datetime | None = None,
    archive_timeout_seconds: float = ARCHIVE_TIMEOUT_SECONDS,
) -> SurveyResult:
    """Survey ``server_name``'s archive; a history file that can't be read is reported, and left out of the holdings.

    ``system_id`` and ``timeline`` are the cluster's ("" and 0: what the archive leaves no doubt about),
    ``tablespaces`` those that it should have; ``known`` its Backup objects (``None``: not asked); ``samples`` WAL
    segments and ``read_through`` stored bytes of the newest base backup are read; a segment that is missing may still
    be on its way at ``now`` (``None``: the present), see `broken_wal`. PreconditionError: the archive is of several
    systems, or of several timelines that went on, and nothing says which is the cluster's. ObjectStoreError: the
    store refused or did not answer.
    """
    now = now or datetime.now(UTC)
    listing = wal_names(store, server_name)
    system_id = system_id or own_system(store, listing, catalogue(store, server_name))
    found = catalogue(store, server_name, system_id=system_id)
    findings = _backups(found, known)
    read: list[str] = []
    torn = _tars(store, found, read_through, read)
    read_histories, damage = _histories(store, listing)
    findings += torn + damage
    broken = {item.backup_id for item in torn}
    whole = tuple(backup for backup in found.usable if backup.backup_id not in broken)
    every = ArchiveSnapshot(store, listing, whole, read_histories, system_id, timeline)
    held, aside = _kept(every)
    findings += [_off_the_way(held, backup, aside[backup.backup_id]) for backup in whole if backup.backup_id in aside]
    strays, notes = _timelines(held, now, archive_timeout_seconds)
    findings += strays
    findings += _chains(held, now, archive_timeout_seconds)
    findings += _tablespaces(held, tablespaces)
    findings += _sampled(held, samples, read)
    told = ArchiveSurvey(
        server_name=server_name,
        backups=len(found.entries),
        usable=len(held.backups),
        stored_bytes=sum(entry.size_bytes for entry in found.entries),
        segments=len(listing),
        findings=tuple(findings),
        read=tuple(read),
        notes=tuple(notes),
    )
    return SurveyResult(told, found, held, aside)


# -- base backups ----------------------------------------------------------------------------------------------------


def _backups(found: Catalogue, known: Sequence[KnownBackup] | None) -> list[ArchiveFinding]:
    running = any(item.phase in RUNNING for item in known or ())
    ids = {item.backup_id for item in known or () if item.backup_id}
    completed = {item.backup_id for item in known or () if item.phase == "completed"}
    findings = []
    for entry in found.entries:
        # The one that is being made is no damage: it is the newest, and a Backup object says that it runs.
        if entry.backup or (running and entry is found.entries[-1] and entry.state is BackupState.UNFINISHED):
            continue
        orphaned = known is not None and entry.state is BackupState.UNFINISHED and entry.backup_id not in ids
        explained = "; no Backup object and no catalogue explains it" if orphaned else ""
        findings.append(
            ArchiveFinding(
                state="orphaned" if orphaned else str(entry.state),
                what=f"base backup {entry.backup_id} is {entry.reason}{explained}",
                key=entry.key,
                backup_id=entry.backup_id,
                spare=entry.state in _NEVER_COMPLETE and entry.backup_id not in completed,
            )
        )
    if not found.entries:
        findings.append(ArchiveFinding(state="no backup", what="the archive holds no base backup"))
    oldest = min((backup.backup_id for backup in found.usable), default="")
    return findings + [
        ArchiveFinding(
            state="orphaned",
            what=f"Backup {item.name} says completed, and the bucket has no base backup {item.backup_id}",
            backup_id=item.backup_id,
            spare=item.backup_id < oldest,  # retention takes the oldest, and the Backup object only after it
        )
        for item in known or ()
        if item.phase == "completed" and item.backup_id and found.entry(item.backup_id) is None
    ]


def _tars(store: ObjectStore, found: Catalogue, read_through: int, read: list[str]) -> list[ArchiveFinding]:
    findings = []
    for entry in (entry for entry in found.entries if entry.backup):
        newest = found.newest is not None and entry.backup_id == found.newest.backup_id
        checks = check_tars(store, entry.tars, read_through=read_through if newest else 0)
        for check in checks:
            if check.state.broken:
                what = f"base backup {entry.backup_id} is {check.state}: {_file(check.key)}: {check.found}"
                findings.append(
                    ArchiveFinding(state=str(check.state), what=what, key=check.key, backup_id=entry.backup_id)
                )
        through = sum(check.state is TarState.WHOLE for check in checks)
        unread = sum(check.state is TarState.UNREAD for check in checks)
        read.append(
            f"base backup {entry.backup_id}: tars read to the end: {through} of {len(checks)}; "
            + (f"not read: {unread}" if unread else "others: last bytes only")
        )
    return findings


# -- WAL -------------------------------------------------------------------------------------------------------------


def _histories(store: ObjectStore, listing: WalListing) -> tuple[Histories, list[ArchiveFinding]]:
    """The history files that can be read, and those that can't."""
    found: dict[int, tuple[Switch, ...]] = {}
    findings = []
    for timeline, item in listing.histories.items():
        try:
            found[timeline] = read_history(store, item)
        except WalGap as error:
            findings.append(ArchiveFinding(state="history damaged", what=error.what, key=item.key))
        except ObjectStoreError as error:
            if error.reason not in {"InvalidObjectState", "NoSuchKey"}:
                raise
            findings.append(ArchiveFinding(state="history unreadable", what=error.what, key=item.key))
    return found, findings


def _timelines(
    held: ArchiveSnapshot, now: datetime, archive_timeout_seconds: float
) -> tuple[list[ArchiveFinding], list[str]]:
    """Timelines that lead recovery away from the cluster's own, or that it can't be led to; and what is no fault."""
    own, listing = held.own, held.listing
    findings: list[ArchiveFinding] = []
    notes: list[str] = []
    on = {branch.timeline for branch in way_to(own, held.histories)}
    late = [backup for backup in held.backups if held.chain(backup).timeline != own]
    for timeline in sorted(set(listing.timelines) | {own}):
        name = f"{timeline:08X}.history"
        if timeline == 1 or timeline in listing.histories:
            continue
        if timeline == own and (late or not held.backups):
            what = f"{name} is missing: recovery can't find its way to timeline {timeline}, the cluster's own"
            todo = f"Archive {name} from pg_wal of an instance, or take a new base backup: one of timeline {timeline} needs none."
            key = f"{wal_prefix(listing.server_name)}{name}"
            findings.append(ArchiveFinding(state="history missing", what=what, key=key, todo=todo))
        elif timeline == own:
            notes.append(f"{name} is not archived; the base backups of timeline {timeline} need none")
        elif timeline in on:
            notes.append(f"{name} is not archived; {max(on):08X}.history names its part of the way")
        else:
            notes.append(f"timeline {timeline} has segments and no history file: recovery never goes there")
    for stray in held.strays:
        if stray.timeline < own:
            where = f"left timeline {stray.left} at {stray.at}" if stray.at else "is not one that the cluster came from"
            notes.append(f"timeline {stray.timeline} {where} and was given up: the cluster is on timeline {own}")
        elif stray.timeline in held.histories:
            findings.append(_stray(held, stray, now, archive_timeout_seconds))
    return findings, notes


def _stray(held: ArchiveSnapshot, stray: Stray, now: datetime, archive_timeout_seconds: float) -> ArchiveFinding:
    own, name = held.own, f"{stray.timeline:08X}.history"
    at = f" at {show_instant(stray.archived_at)}" if stray.archived_at else ""
    left = f"left timeline {stray.left} at {stray.at}" if stray.at else "shares no history with it"
    fresh = stray.archived_at is not None and (now - stray.archived_at).total_seconds() < archive_timeout_seconds
    went_on = stray.newest is not None and stray.archived_at is not None and stray.newest.modified > stray.archived_at
    key = held.listing.histories[stray.timeline].key
    segment = held.listing.latest(stray.timeline)
    system_id = system_of(held.store, segment) if segment else ""
    foreign = system_id not in ("", held.system_id)
    whose = f"is of system {system_id}, not of the cluster's {held.system_id}" if foreign else "is not the cluster's"
    if fresh and not went_on:
        what = (
            f"{name} was archived{at}, and the cluster says that it is on timeline {own}: it may just be changing over"
        )
        return ArchiveFinding(state=NEW_TIMELINE, what=what, key=key, todo="Look again in a few minutes.")
    cost = (
        f"; what follows it loses the {stray.beyond:,} segments of the cluster's own way after that, up to "
        f"{stray.newest.name}, archived at {show_instant(stray.newest.modified)}"
        if stray.newest
        else ""
    )
    return ArchiveFinding(
        state=STRAY_TIMELINE,
        what=f"timeline {stray.timeline} ({name}, archived{at}, {stray.segments:,} segments) {left} and {whose}, which is on "
        f"timeline {own}{cost}",
        key=key,
        todo=f"Find the server that archived {name} here (a restored cluster with this serverName) and stop its archiving; "
        f"then move {name} and the segments and base backups of timeline {stray.timeline} to another folder. Until then "
        f"recover with targetTLI {own} only, as Drillbook does: PostgreSQL's default, latest, would follow timeline "
        f"{stray.timeline}.",
    )


def _off_the_way(held: ArchiveSnapshot, backup: BaseBackup, why: str) -> ArchiveFinding:
    """A base backup that no WAL leads from to the cluster's timeline: another server's, or of a timeline that was left."""
    return ArchiveFinding(
        state="unreachable",
        what=f"from base backup {backup.backup_id}: {why}",
        backup_id=backup.backup_id,
        spare=bool(held.backups),
    )


def _tablespaces(held: ArchiveSnapshot, names: Sequence[str]) -> list[ArchiveFinding]:
    """Tablespaces that the cluster should have and its newest base backup has not; where in the WAL they were created.

    Only then is WAL read for it: from the backup's end on, as much as one search may read.
    """
    backup = held.backups[-1] if held.backups else None
    missing = sorted(set(names) - set(backup.tablespaces)) if backup else []
    if backup is None or not missing:
        return []
    stretch = held.stretch(backup)
    held.allow(LOOK_BACK)
    whole = True
    try:
        for _ in stretch.forwards(stretch.number(backup.end_lsn)):
            if len(held.tablespaces_after(backup)) >= len(missing):
                break
    except (WalGap, ObjectStoreError) as error:
        if isinstance(error, ObjectStoreError) and error.reason != "TargetTooFarBack":
            raise
        whole = False
    made = held.tablespaces_after(backup)
    if whole and not made:
        return []  # the Cluster names it, and it was not created yet
    shown = "; ".join(map(str, made)) or f"its creation was not found in the {LOOK_BACK} segments after the base backup"
    return [
        ArchiveFinding(
            state="new tablespace",
            what=f"base backup {backup.backup_id} has no tablespace {', '.join(missing)}: {shown}",
            segment=stretch.reach.name_at(stretch.number(made[0].lsn)) if made else "",
            todo="Take a new base backup now; until then recover to before that LSN only.",
        )
    ]


def _chains(held: ArchiveSnapshot, now: datetime, archive_timeout_seconds: float) -> list[ArchiveFinding]:
    findings: list[ArchiveFinding] = []
    told: set[str] = set()
    under_way = uploading(held.store, held.listing.server_name)
    for backup in reversed(held.backups):  # a gap that several of them meet is reported once, for the newest
        reach = held.chain(backup)
        broken = broken_wal(held, backup, now=now, under_way=under_way, archive_timeout_seconds=archive_timeout_seconds)
        for item in broken[:MOST_GAPS]:
            if item.first_segment not in told:
                findings.append(_broken(held, backup, item))
            told.add(item.first_segment)
        if reach.unbroken and reach.end_lsn < backup.end_lsn:
            late = (now - backup.end_time).total_seconds() > archive_timeout_seconds
            what = f"base backup {backup.backup_id} needs WAL up to {backup.end_wal}, archived is {reach.last_segment}"
            state = str(WalState.LOST if late else WalState.DELAYED)
            findings.append(ArchiveFinding(state=state, what=what, segment=backup.end_wal, backup_id=backup.backup_id))
    return findings


def _broken(held: ArchiveSnapshot, backup: BaseBackup, item: BrokenWal) -> ArchiveFinding:
    """A hole in the chain, with the object that is in its first segment's place."""
    name = item.first_segment
    lying = held.store.list(f"{wal_prefix(held.listing.server_name)}{name[:16]}/{name}")
    begins = ": its begin WAL, without which it can't be restored at all" if name == backup.begin_wal else ""
    return ArchiveFinding(
        state=str(item.state),
        what=f"segment {item}; needed after base backup {backup.backup_id}{begins}",
        key=next((found.key for found in lying if ".backup" not in found.key), ""),
        segment=name,
        backup_id=backup.backup_id,
    )


def _sampled(held: ArchiveSnapshot, samples: int, read: list[str]) -> list[ArchiveFinding]:
    """Damage that only reading shows, in a sample of the segments that the backups need."""
    first = [name for backup in reversed(held.backups) for name in (backup.begin_wal, backup.end_wal)]
    begin = min((backup.begin_wal[8:] for backup in held.backups), default="")
    on = {f"{branch.timeline:08X}" for branch in way_to(held.own, held.histories)}
    end = max((held.chain(backup).newest_segment for backup in held.backups), default="")
    names = [name for name in held.listing.names() if name[8:] >= begin and name[:8] in on and (name <= end or not end)]
    chosen = [segment for name in sample_names(names, samples, first=first) if (segment := held.listing.segment(name))]
    ends = {held.chain(backup).last_segment for backup in held.backups} | set(names[-1:])
    corrupt, looked = read_sample(held.store, chosen, system_id=held.system_id, ends=ends)
    rest = f", {looked / len(names):.0%}; the rest is known by name and size only" if looked < len(names) else ""
    read.append(f"WAL: {looked:,} of {len(names):,} segments since the oldest usable base backup read through{rest}")
    return [
        ArchiveFinding(state=item.state, what=item.found, key=item.segment.key, segment=item.segment.name)
        for item in corrupt
    ]


def _file(key: str) -> str:
    return key.rpartition("/")[2]
