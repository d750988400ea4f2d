"""The catalogue: which base backups the bucket holds, and which of them can be used."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from drillbook.archive.backup_info import BackupInfo, BackupInfoError, backup_info, fields
from drillbook.archive.layout import PARALLEL, base_prefix, wal_prefix
from drillbook.archive.protocol import ObjectInfo, ObjectStore
from drillbook.errors import ObjectStoreError
from drillbook.model import BaseBackup

TAR_ENDINGS = {"tar": "", "tar.gz": "gzip", "tar.bz2": "bzip2", "tar.snappy": "snappy", "tar.lz4": "lz4"}
COLD = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes whose objects can't be read before they are restored to another."""

_PART = re.compile(r"(data|\d+)(?:_(\d{4}))?\.(tar(?:\.[a-z0-9]+)?)")
_KEEP = "annotations/keep"


class BackupState(StrEnum):
    """What a folder below ``base/`` holds."""

    COMPLETE = "complete"
    UNFINISHED = "unfinished"
    FAILED = "failed"
    FOREIGN = "foreign"
    MISSING_DATA = "missing data"
    COLD = "cold"
    SNAPSHOT = "a volume snapshot"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Entry:
    """A base backup as the bucket has it. ``reason`` says why it can't be used, "" if it can; ``backup`` then is set.

    ``size_bytes`` is what all its objects take, ``modified`` the newest one's time, ``tars`` its data with each one's
    compression, ``kept`` whether barman's annotation keeps retention from it, ``key`` the object that the reason is
    about ("" for none in particular).
    """

    backup_id: str
    server_name: str
    state: BackupState
    reason: str = ""
    backup: BaseBackup | None = None
    size_bytes: int = 0
    modified: datetime | None = None
    tars: tuple[tuple[ObjectInfo, str], ...] = ()
    kept: bool = False
    key: str = ""
    system_id: str = ""

    def age_seconds(self, now: datetime) -> float:
        """Seconds since it ended, or since its newest object was written; 0 if neither is known."""
        at = self.backup.end_time if self.backup else self.modified
        return (now - at).total_seconds() if at else 0.0


@dataclass
class Catalogue:
    """Every base backup of one server name, by its id."""

    entries: list[Entry] = field(default_factory=list)

    @property
    def usable(self) -> list[BaseBackup]:
        """Those that can be used, oldest first by the time they ended."""
        found = [entry.backup for entry in self.entries if entry.backup is not None]
        return sorted(found, key=lambda backup: (backup.end_time, backup.backup_id))

    @property
    def unusable(self) -> list[tuple[str, str]]:
        """(id, reason) of those that can't."""
        return [(entry.backup_id, entry.reason) for entry in self.entries if entry.backup is None]

    @property
    def newest(self) -> BaseBackup | None:
        """The usable backup that ended last."""
        return self.usable[-1] if self.usable else None

    def find(self, backup_id: str) -> BaseBackup | None:
        """The usable backup of this id."""
        return next((backup for backup in self.usable if backup.backup_id == backup_id), None)

    def entry(self, backup_id: str) -> Entry | None:
        """What the bucket has under this id, usable or not."""
        return next((entry for entry in self.entries if entry.backup_id == backup_id), None)


def server_names(store: ObjectStore) -> list[str]:
    """The folders right below the store's location that hold base backups or WAL; one may begin as another does."""
    names = sorted(folder.rstrip("/") for folder in store.level("").folders)
    return [name for name in names if {base_prefix(name), wal_prefix(name)} & set(store.level(f"{name}/").folders)]


def catalogue(store: ObjectStore, server_name: str, *, system_id: str = "", cold: bool = False) -> Catalogue:
    """Read every ``backup.info`` and list every backup's objects, several backups at once.

    A backup is not usable if it is unfinished, failed, another system's (where ``system_id`` is given), a volume
    snapshot, unreadable, or if objects that it must have are missing, empty or in a cold storage class (unless
    ``cold``: then it is only listed). Encryption at rest makes no difference: the store decrypts. ObjectStoreError: the store refused or did not answer; what one
    backup's objects are refused for makes only that backup unreadable.
    """
    folders = store.level(base_prefix(server_name)).folders
    ids = [folder.removeprefix(base_prefix(server_name)).rstrip("/") for folder in folders]
    with ThreadPoolExecutor(PARALLEL, thread_name_prefix="catalogue") as pool:
        return Catalogue(list(pool.map(lambda one: _entry(store, server_name, one, system_id, cold), ids)))


def _entry(store: ObjectStore, server_name: str, backup_id: str, system_id: str, cold: bool) -> Entry:
    prefix = f"{base_prefix(server_name)}{backup_id}/"
    objects = list(store.list(prefix))
    tars = tuple(
        (item, TAR_ENDINGS.get(found[3], found[3]))
        for item in objects
        if (found := _PART.fullmatch(item.key.removeprefix(prefix)))
    )
    entry = Entry(
        backup_id,
        server_name,
        BackupState.COMPLETE,
        size_bytes=sum(item.size for item in objects),
        modified=max((item.modified for item in objects), default=None),
        tars=tars,
        kept=any(item.key == prefix + _KEEP for item in objects),
    )
    return _judged(store, entry, prefix, objects, system_id, cold)


def _judged(
    store: ObjectStore, entry: Entry, prefix: str, objects: Sequence[ObjectInfo], system_id: str, cold: bool
) -> Entry:
    key = f"{prefix}backup.info"

    def unusable(state: BackupState, why: str, about: str = key) -> Entry:
        return replace(entry, state=state, reason=f"{state}: {why}" if why else str(state), key=about)

    if not any(item.key == key for item in objects):
        why = "it has no backup.info (still running, cut off, or half removed)"
        return unusable(BackupState.UNFINISHED, why)
    try:
        said = fields(store.get(key).decode())
        status = said.get("status", "EMPTY")
        if status == "FAILED":
            return unusable(BackupState.FAILED, said.get("error", "no reason is given"))
        if status != "DONE":
            return unusable(BackupState.UNFINISHED, f"its status is {status}")
        info = backup_info(said)
    except (BackupInfoError, UnicodeDecodeError) as error:
        return unusable(BackupState.UNREADABLE, str(error))
    except ObjectStoreError as error:
        if error.reason == "InvalidObjectState":
            return unusable(BackupState.COLD, error.what)
        if error.reason == "NoSuchKey":
            return unusable(BackupState.UNREADABLE, error.what)
        raise
    entry = replace(entry, system_id=info.system_id)
    if system_id and info.system_id != system_id:
        return unusable(BackupState.FOREIGN, f"it is of system {info.system_id}, not {system_id}")
    if info.is_snapshot:
        return unusable(BackupState.SNAPSHOT, "its data is not in the bucket")
    if problem := _missing(info, prefix, entry.tars):
        return unusable(BackupState.MISSING_DATA, problem[0], problem[1])
    if not cold and (item := _cold(store, entry.tars)):
        why = f"{item.key.removeprefix(prefix)} is in {item.storage_class}: restore it to a readable class first"
        return unusable(BackupState.COLD, why, item.key)
    return replace(entry, backup=_base_backup(store, entry, info, prefix, said["status"]))


def _base_backup(store: ObjectStore, entry: Entry, info: BackupInfo, prefix: str, status: str) -> BaseBackup:
    compression = next(ending for item, ending in entry.tars if item.key.startswith(f"{prefix}data."))
    return BaseBackup(
        backup_id=entry.backup_id,
        server_name=entry.server_name,
        status=status,
        begin_time=info.begin_time,
        end_time=info.end_time,
        begin_wal=info.begin_wal,
        end_wal=info.end_wal,
        begin_lsn=info.begin_lsn,
        end_lsn=info.end_lsn,
        timeline=info.timeline,
        system_id=info.system_id,
        pg_version=info.pg_version,
        segment_bytes=info.segment_bytes,
        size_bytes=sum(item.size for item, _ in entry.tars),
        cluster_size_bytes=info.cluster_size_bytes,
        compression=info.compression or compression,
        location=f"{store.location}/{prefix}".rstrip("/"),
        backup_name=info.backup_name,
        objects=len(entry.tars),
        tablespaces=tuple(name for name, _ in info.tablespaces),
        stored_bytes_of=tuple((name, _stored_bytes(entry, f"{prefix}{oid}")) for name, oid in info.tablespaces),
    )


def _stored_bytes(entry: Entry, stem: str) -> int:
    """What the parts of one tar take: ``<stem>.tar``, ``<stem>_0001.tar``, compressed or not."""
    return sum(item.size for item, _ in entry.tars if item.key.startswith((f"{stem}.", f"{stem}_")))


def _cold(store: ObjectStore, tars: Sequence[tuple[ObjectInfo, str]]) -> ObjectInfo | None:
    """The first tar in a cold class that has not been made readable for a while (its class stays the same then)."""
    for item, _ in tars:
        if item.storage_class in COLD:
            try:
                store.get(item.key, length=1)
            except ObjectStoreError as error:
                if error.reason != "InvalidObjectState":
                    raise
                return item
    return None


def _missing(info: BackupInfo, prefix: str, tars: Sequence[tuple[ObjectInfo, str]]) -> tuple[str, str] | None:
    """What the backup must have and has not, with its key: the data directory and each tablespace, every part.

    Parts are numbered without a hole, so a missing one shows here unless it is the last: its number is written nowhere.
    """
    parts: dict[str, set[int]] = {}
    ending = "tar"
    for item, _ in tars:
        name = item.key.removeprefix(prefix)
        if item.size == 0:
            return f"{name} is empty", item.key
        found = _PART.fullmatch(name)
        if found is None or found[3] not in TAR_ENDINGS:
            return f"{name} has an ending that is not known", item.key
        parts.setdefault(found[1], set()).add(int(found[2] or 0))
        ending = found[3]
    for needed in ("data", *(str(oid) for _, oid in info.tablespaces)):
        numbers = parts.get(needed)
        holes = sorted(set(range(max(numbers))) - numbers) if numbers else [0]
        if holes:
            name = f"{needed}_{holes[0]:04d}" if holes[0] else needed
            return f"no {name}.tar", f"{prefix}{name}.{ending}"
    return None
