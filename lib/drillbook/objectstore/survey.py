"""What is wrong with an archive, before anybody relies on it: every damage by name, with the object or segment.

Told from listings, ``backup.info`` and history files, the ends of the base backups' tars, and a sample of the WAL; what was
not read is said. Only listing and getting is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple, TypedDict, Unpack

from drillbook.errors import ObjectStoreError, WalGap
from drillbook.model import BaseBackup, Frozen
from drillbook.objectstore.archive import read_history, read_segment
from drillbook.objectstore.catalogue import BackupState, Catalogue, catalogue
from drillbook.objectstore.gaps import ARCHIVE_TIMEOUT_SECONDS, BrokenWal, WalState, broken_wal, uploading
from drillbook.objectstore.holdings import Holdings
from drillbook.objectstore.layout import WalListing, wal_names, wal_prefix
from drillbook.objectstore.protocol import ObjectStore
from drillbook.objectstore.sampling import SAMPLES, read_sample, sample_names
from drillbook.objectstore.tarcheck import READ_THROUGH, TarState, check_tars
from drillbook.wal import Histories, Switch, WalFormatError, segment_header

RUNNING = frozenset({"", "pending", "started", "running", "finalizing", "walArchivingFailing"})
MOST_GAPS = 8
_NEVER_COMPLETE = {BackupState.UNFINISHED, BackupState.FAILED, BackupState.FOREIGN, BackupState.SNAPSHOT}


@dataclass(frozen=True)
class KnownBackup:
    """A Backup object as Kubernetes has it, of this cluster and store: what it claims is held against the bucket."""

    name: str
    phase: str
    backup_id: str = ""
    started_at: datetime | None = None


class Finding(Frozen):
    """One damage. ``what`` is the sentence; ``key`` the object in the store, "" where none is there; ``segment`` the WAL.

    ``spare``: a base backup that nothing says was ever complete, or another system's: it takes room, and costs no instant.
    """

    state: str
    what: str
    key: str = ""
    segment: str = ""
    backup_id: str = ""
    spare: bool = False

    @property
    def passing(self) -> bool:
        """Whether it may well mend itself: look again before anything is done."""
        return self.state in {WalState.DELAYED, WalState.UPLOADING}


class Survey(Frozen):
    """What one server's archive holds and what is wrong with it; ``read`` says how deep it was looked at."""

    server_name: str
    backups: int
    usable: int
    stored_bytes: int
    segments: int
    findings: tuple[Finding, ...]
    read: tuple[str, ...]

    @property
    def damages(self) -> tuple[Finding, ...]:
        """What costs instants that could be recovered, for good."""
        return tuple(item for item in self.findings if not item.spare and not item.passing)


class Look(NamedTuple):
    """A survey, and the listings that it was made from; a backup with a broken tar is not among those of ``held``."""

    survey: Survey
    catalogue: Catalogue
    held: Holdings


class Asked(TypedDict, total=False):
    """What a survey may be told, and how deep it reads: the arguments of `look`."""

    system_id: str
    known: Sequence[KnownBackup] | None
    samples: int
    read_through: int
    now: datetime | None
    archive_timeout_seconds: float


def survey(store: ObjectStore, server_name: str, **asked: Unpack[Asked]) -> Survey:
    """Look at all that ``server_name`` has in the archive; `look` says what it may be told, and what it raises."""
    return look(store, server_name, **asked).survey


def look(
    store: ObjectStore,
    server_name: str,
    *,
    system_id: str = "",
    known: Sequence[KnownBackup] | None = None,
    samples: int = SAMPLES,
    read_through: int = READ_THROUGH,
    now: datetime | None = None,
    archive_timeout_seconds: float = ARCHIVE_TIMEOUT_SECONDS,
) -> Look:
    """Survey ``server_name``'s archive; a history file that can't be read is told, and left out of the holdings.

    ``system_id`` is the cluster's ("": that of the newest archived WAL); ``known`` its Backup objects (``None``: not asked);
    ``samples`` WAL segments and ``read_through`` stored bytes of the newest base backup are read; a segment that is
    missing may still be on its way at ``now`` (``None``: the present), see `broken_wal`. ObjectStoreError: the store
    refused or did not answer.
    """
    listing = wal_names(store, server_name)
    system_id = system_id or _system_of_wal(store, listing)
    found = catalogue(store, server_name, system_id=system_id)
    findings = _backups(found, known)
    read: list[str] = []
    torn = _tars(store, found, read_through, read)
    histories, damage = _histories(store, listing)
    findings += torn + damage
    broken = {item.backup_id for item in torn}
    whole = tuple(backup for backup in found.usable if backup.backup_id not in broken)
    held = Holdings(store, listing, whole, histories, system_id)
    findings += _chains(held, now or datetime.now(UTC), archive_timeout_seconds)
    findings += _sampled(held, samples, read)
    told = Survey(
        server_name=server_name,
        backups=len(found.entries),
        usable=len(found.usable),
        stored_bytes=sum(entry.size_bytes for entry in found.entries),
        segments=len(listing),
        findings=tuple(findings),
        read=tuple(read),
    )
    return Look(told, found, held)


# -- base backups ----------------------------------------------------------------------------------------------------


def _backups(found: Catalogue, known: Sequence[KnownBackup] | None) -> list[Finding]:
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
            Finding(
                state="orphaned" if orphaned else str(entry.state),
                what=f"base backup {entry.backup_id} is {entry.reason}{explained}",
                key=entry.key,
                backup_id=entry.backup_id,
                spare=entry.state in _NEVER_COMPLETE and entry.backup_id not in completed,
            )
        )
    if not found.entries:
        findings.append(Finding(state="no backup", what="the archive holds no base backup"))
    oldest = min((backup.backup_id for backup in found.usable), default="")
    return findings + [
        Finding(
            state="orphaned",
            what=f"Backup {item.name} says completed, and the bucket has no base backup {item.backup_id}",
            backup_id=item.backup_id,
            spare=item.backup_id < oldest,  # retention takes the oldest, and the Backup object only after it
        )
        for item in known or ()
        if item.phase == "completed" and item.backup_id and found.entry(item.backup_id) is None
    ]


def _tars(store: ObjectStore, found: Catalogue, read_through: int, read: list[str]) -> list[Finding]:
    findings = []
    for entry in (entry for entry in found.entries if entry.backup):
        newest = found.newest is not None and entry.backup_id == found.newest.backup_id
        checks = check_tars(store, entry.tars, read_through=read_through if newest else 0)
        for check in checks:
            if check.state.broken:
                what = f"base backup {entry.backup_id} is {check.state}: {_file(check.key)}: {check.found}"
                findings.append(Finding(state=str(check.state), what=what, key=check.key, backup_id=entry.backup_id))
        through = sum(check.state is TarState.WHOLE for check in checks)
        unread = sum(check.state is TarState.UNREAD for check in checks)
        read.append(
            f"base backup {entry.backup_id}: {through} of {len(checks)} tars read through, "
            + (f"of {unread} nothing is known" if unread else "of the others the last bytes")
        )
    return findings


def _system_of_wal(store: ObjectStore, listing: WalListing) -> str:
    """The system that the newest readable segment is of: a folder belongs to who archives to it. "" if none can be read."""
    if listing.newest is None:
        return ""
    try:
        name = listing.newest.name
        return segment_header(read_segment(store, listing.newest), f"segment {name}").system_id
    except (WalGap, WalFormatError):
        return ""


# -- WAL -------------------------------------------------------------------------------------------------------------


def _histories(store: ObjectStore, listing: WalListing) -> tuple[Histories, list[Finding]]:
    """The history files that can be read, and those that can't."""
    histories: dict[int, tuple[Switch, ...]] = {}
    findings = []
    for timeline, item in listing.histories.items():
        try:
            histories[timeline] = read_history(store, item)
        except WalGap as error:
            findings.append(Finding(state="history damaged", what=error.what, key=item.key))
        except ObjectStoreError as error:
            if error.reason not in {"InvalidObjectState", "NoSuchKey"}:
                raise
            findings.append(Finding(state="history unreadable", what=error.what, key=item.key))
    for timeline in sorted(set(listing.timelines) - set(listing.histories) - {1}):
        # A timeline that only a later one passes through is in that one's history; its own file is needed as well
        # only to recover to it.
        name = f"{timeline:08X}.history"
        what = (
            f"{name} is missing: recovery can't find its way to timeline {timeline}, which has segments in the archive"
        )
        findings.append(Finding(state="history missing", what=what, key=f"{wal_prefix(listing.server_name)}{name}"))
    return histories, findings


def _chains(held: Holdings, now: datetime, archive_timeout_seconds: float) -> list[Finding]:
    findings: list[Finding] = []
    told: set[str] = set()
    under_way = uploading(held.store, held.listing.server_name)
    for backup in reversed(held.backups):  # a gap that several of them meet is told once, for the newest
        reach = held.chain(backup)
        broken = broken_wal(
            held, backup, now=now, under_way=under_way, archive_timeout_seconds=archive_timeout_seconds
        )
        for item in broken[:MOST_GAPS]:
            if item.first_segment not in told:
                findings.append(_broken(held, backup, item))
            told.add(item.first_segment)
        if reach.problem and not reach.gaps:
            what = f"from base backup {backup.backup_id}: {reach.problem}"
            findings.append(Finding(state="unreachable", what=what, backup_id=backup.backup_id))
        if reach.unbroken and reach.end_lsn < backup.end_lsn:
            late = (now - backup.end_time).total_seconds() > archive_timeout_seconds
            what = f"base backup {backup.backup_id} needs WAL up to {backup.end_wal}, archived is {reach.last_segment}"
            state = str(WalState.LOST if late else WalState.DELAYED)
            findings.append(Finding(state=state, what=what, segment=backup.end_wal, backup_id=backup.backup_id))
    return findings


def _broken(held: Holdings, backup: BaseBackup, item: BrokenWal) -> Finding:
    """A hole in the chain, with the object that lies in its first segment's place."""
    name = item.first_segment
    lying = held.store.list(f"{wal_prefix(held.listing.server_name)}{name[:16]}/{name}")
    begins = ": its begin WAL, without which it can't be restored at all" if name == backup.begin_wal else ""
    return Finding(
        state=str(item.state),
        what=f"segment {item}; needed after base backup {backup.backup_id}{begins}",
        key=next((found.key for found in lying if ".backup" not in found.key), ""),
        segment=name,
        backup_id=backup.backup_id,
    )


def _sampled(held: Holdings, samples: int, read: list[str]) -> list[Finding]:
    """Damage that only reading shows, in a sample of the segments that the backups need."""
    first = [name for backup in reversed(held.backups) for name in (backup.begin_wal, backup.end_wal)]
    begin = min((backup.begin_wal[8:] for backup in held.backups), default="")
    names = [name for name in held.listing.names() if name[8:] >= begin]
    chosen = [segment for name in sample_names(names, samples, first=first) if (segment := held.listing.segment(name))]
    ends = {held.chain(backup).last_segment for backup in held.backups} | set(names[-1:])
    spoilt, looked = read_sample(held.store, chosen, system_id=held.system_id, ends=ends)
    read.append(f"WAL: {looked} of {len(names)} segments since the oldest usable base backup read through")
    return [
        Finding(state=item.state, what=item.found, key=item.segment.key, segment=item.segment.name) for item in spoilt
    ]


def _file(key: str) -> str:
    return key.rpartition("/")[2]
