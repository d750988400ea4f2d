"""The catalogue: which base backups the bucket holds, and which of them can be used."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from drillbook.errors import ObjectStoreError
from drillbook.model import BaseBackup
from drillbook.objectstore.backupinfo import BackupInfo, BackupInfoError, backup_info, fields
from drillbook.objectstore.layout import PARALLEL, base_prefix
from drillbook.objectstore.protocol import ObjectInfo, ObjectStore

_ENDINGS = {"tar": "", "tar.gz": "gzip", "tar.bz2": "bzip2", "tar.snappy": "snappy", "tar.lz4": "lz4"}
_PART = re.compile(r"(data|\d+)(?:_(\d{4}))?\.(tar(?:\.[a-z0-9]+)?)")


@dataclass
class Catalogue:
    """``usable`` base backups, oldest first by the time they ended, and (id, reason) of those that are not."""

    usable: list[BaseBackup] = field(default_factory=list)
    unusable: list[tuple[str, str]] = field(default_factory=list)

    @property
    def newest(self) -> BaseBackup | None:
        """The usable backup that ended last."""
        return self.usable[-1] if self.usable else None

    def find(self, backup_id: str) -> BaseBackup | None:
        """The usable backup of this id."""
        return next((backup for backup in self.usable if backup.backup_id == backup_id), None)


def catalogue(store: ObjectStore, server_name: str, *, system_id: str = "") -> Catalogue:
    """Read every ``backup.info`` and list every backup's objects, several backups at once.

    A backup is not usable if it is unfinished, failed, another system's (where ``system_id`` is given), a volume
    snapshot, unreadable, or if objects that it must have are missing or empty. ObjectStoreError: the store refused or
    did not answer; what one backup's objects are refused for makes only that backup unreadable.
    """
    folders = store.level(base_prefix(server_name)).folders
    ids = [folder.removeprefix(base_prefix(server_name)).rstrip("/") for folder in folders]
    found = Catalogue()
    with ThreadPoolExecutor(PARALLEL, thread_name_prefix="catalogue") as pool:
        for backup_id, backup in zip(
            ids, pool.map(lambda one: _judge(store, server_name, one, system_id), ids), strict=True
        ):
            if isinstance(backup, str):
                found.unusable.append((backup_id, backup))
            else:
                found.usable.append(backup)
    found.usable.sort(key=lambda backup: (backup.end_time, backup.backup_id))
    return found


def _judge(store: ObjectStore, server_name: str, backup_id: str, system_id: str) -> BaseBackup | str:
    """The backup, or why it can't be used."""
    prefix = f"{base_prefix(server_name)}{backup_id}/"
    objects = list(store.list(prefix))
    if not any(item.key == f"{prefix}backup.info" for item in objects):
        return "unfinished: it has no backup.info (still running, cut off, or half removed)"
    try:
        said = fields(store.get(f"{prefix}backup.info").decode())
        status = said.get("status", "EMPTY")
        if status == "FAILED":
            return f"failed: {said.get('error', 'no reason is given')}"
        if status != "DONE":
            return f"unfinished: its status is {status}"
        info = backup_info(said)
    except (BackupInfoError, UnicodeDecodeError) as error:
        return f"unreadable: {error}"
    except ObjectStoreError as error:
        if error.reason in {"InvalidObjectState", "NoSuchKey"}:
            return f"unreadable: {error.what}"
        raise
    if system_id and info.system_id != system_id:
        return f"foreign: it is of system {info.system_id}, not {system_id}"
    if info.is_snapshot:
        return "a volume snapshot: its data is not in the bucket"
    data = [item for item in objects if _PART.fullmatch(item.key.removeprefix(prefix))]
    if problem := _missing(info, prefix, data):
        return f"missing data: {problem}"
    ending = next(key.partition(".")[2] for key in (item.key for item in data) if key.startswith(f"{prefix}data."))
    return BaseBackup(
        backup_id=backup_id,
        server_name=server_name,
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
        size_bytes=sum(item.size for item in data),
        cluster_size_bytes=info.cluster_size_bytes,
        compression=info.compression or _ENDINGS[ending],
        location=f"{store.location}/{prefix}".rstrip("/"),
        backup_name=info.backup_name,
        objects=len(data),
    )


def _missing(info: BackupInfo, prefix: str, data: Sequence[ObjectInfo]) -> str:
    """What the backup must have and has not, "" if it has all: the data directory and each tablespace, every part.

    Parts are numbered without a hole, so a missing one shows unless it is the last: its number is written nowhere.
    """
    parts: dict[str, set[int]] = {}
    for item in data:
        name = item.key.removeprefix(prefix)
        if item.size == 0:
            return f"{name} is empty"
        found = _PART.fullmatch(name)
        if found is None or found[3] not in _ENDINGS:
            return f"{name} has an ending that is not known"
        parts.setdefault(found[1], set()).add(int(found[2] or 0))
    for needed in ("data", *map(str, info.tablespace_oids)):
        numbers = parts.get(needed)
        if not numbers:
            return f"no {needed}.tar"
        holes = sorted(set(range(max(numbers))) - numbers)
        if holes:
            return f"no {needed}_{holes[0]:04d}.tar" if holes[0] else f"no {needed}.tar"
    return ""
