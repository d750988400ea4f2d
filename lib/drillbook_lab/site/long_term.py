"""Long-term backups for the lab: the newest base backup with the WAL it needs, dated back by years, in an archive class.

Each is a real backup and can be recovered; only its date is not the one on which it was taken.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from drillbook_lab.errors import LabError
from drillbook_lab.faults.archive import newest_backup
from drillbook_lab.faults.store import Bucket, bucket
from drillbook_lab.home import LabHome

FOLDER = "-long-term"  # appended to the cluster's own, as the lab's profile names it


def put(home: LabHome, years: int, storage_class: str = "GLACIER") -> list[str]:
    """Make one of each of the last ``years`` complete years; their ids, oldest first. Safe to repeat: each is made again.

    Data and WAL lie in ``storage_class``, ``backup.info`` and history files in STANDARD, where S3's lifecycle leaves
    small objects. LabError: no base backup is there yet, or its WAL is not archived.
    """
    store = bucket(home)
    backup, begin = newest_backup(store)
    info = store.read(f"{store.prefix}/base/{backup}/backup.info").decode()
    said = dict(line.split("=", 1) for line in info.splitlines() if "=" in line)
    needed = [key for key in store.keys("wals/") if begin <= key.rpartition("/")[2][:24] <= said["end_wal"]]
    if not any(key.rpartition("/")[2].startswith(said["end_wal"]) for key in needed):
        raise LabError("the newest base backup's WAL is not archived yet", said["end_wal"], "try again in a moment")
    for key in store.keys("wals/"):
        if key in needed or ".history" in key:
            _copy(store, key, key, "STANDARD" if ".history" in key else storage_class)
    bodies = {key: store.read(key) for key in store.keys(f"base/{backup}/") if not key.endswith("/backup.info")}
    made = []
    for ago in range(years, 0, -1):
        at = datetime(datetime.now(UTC).year - ago, 12, 30, 2, tzinfo=UTC)
        backup_id = at.strftime("%Y%m%dT%H%M%S")
        folder = _beyond(store, f"{store.prefix}/base/{backup_id}")
        for key, body in bodies.items():
            store.write(f"{folder}/{key.rpartition('/')[2]}", body, storage_class)
        store.write(f"{folder}/backup.info", _dated(info, at).encode())
        made.append(backup_id)
    return made


def _beyond(store: Bucket, key: str) -> str:
    """The key of the same place in the long-term folder."""
    return f"{store.prefix}{FOLDER}{key.removeprefix(store.prefix)}"


def _copy(store: Bucket, key: str, to: str, storage_class: str) -> None:
    store.write(_beyond(store, to), store.read(key), storage_class)


def _dated(info: str, at: datetime) -> str:
    """The description as it would be if the backup had been taken ``at``."""
    text = re.sub(r"^(begin_time|end_time)=.*$", rf"\1={at.isoformat(sep=' ')}", info, flags=re.MULTILINE)
    return re.sub(r"^backup_name=.*$", f"backup_name=long-term-{at:%Y}", text, flags=re.MULTILINE)


__all__ = ["FOLDER", "put"]
