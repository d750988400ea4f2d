"""What goes wrong in life, done for real and undone again: `lab fault NAME`.

Each fault changes the thing itself (an object in the bucket, a key at the gate, a process, a volume), never what
somebody reports about it. What an undo needs is kept under the lab's home, so a fault outlives the daemon.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from drillbook_lab.faults import archive, cluster, store
from drillbook_lab.faults.cluster import control
from drillbook_lab.home import LabHome, write_json
from drillbook_lab.usage import UsageFault

__all__ = ["Fault", "catalogue", "control", "did", "in_force", "inject", "restore"]

Undo = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """One thing that can be broken."""

    name: str
    about: str
    inject: Callable[[LabHome], Undo]
    restore: Callable[[LabHome, Undo], None]

    @property
    def lift(self) -> str:
        """The command that puts it back."""
        return f"drillbook lab fault {self.name} --off"


def catalogue() -> list[Fault]:
    """Every fault of the lab."""
    return list(_FAULTS)


def in_force(home: LabHome) -> list[str]:
    """The faults that have not been undone."""
    return sorted(path.stem for path in home.faults.glob("*.json"))


def did(home: LabHome, name: str) -> str:
    """What a fault that is in force has done, and since when."""
    record = json.loads((home.faults / f"{name}.json").read_text(encoding="utf-8"))
    return f"since {record.get('at', 'its start')}: {record.get('did', '')}"


def inject(home: LabHome, name: str) -> str:
    """Break it; what was done, in a sentence."""
    fault = _named(name)
    record = home.faults / f"{name}.json"
    if record.exists():
        raise UsageFault("this fault is in force already", name, f"undo it first: {fault.lift}")
    undo = fault.inject(home)
    home.faults.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_json(record, {**undo, "at": datetime.now(UTC).isoformat(timespec="seconds")})
    return str(undo.get("did", fault.about))


def restore(home: LabHome, name: str) -> None:
    """Put it back as it was."""
    fault = _named(name)
    record = home.faults / f"{name}.json"
    if not record.exists():
        raise UsageFault("this fault is not in force", name, "drillbook lab fault --list")
    fault.restore(home, json.loads(record.read_text(encoding="utf-8")))
    record.unlink()


def mend_all(home: LabHome) -> list[str]:
    """Put everything back. The store comes first: what is in it is put back through it."""
    order = [fault.name for fault in _FAULTS]
    lifted = sorted(in_force(home), key=order.index)
    for name in lifted:
        restore(home, name)
    return lifted


def _named(name: str) -> Fault:
    for fault in _FAULTS:
        if fault.name == name:
            return fault
    raise UsageFault(
        "there is no such fault", repr(name), f"choose one of {', '.join(fault.name for fault in _FAULTS)}"
    )


_FAULTS = (
    Fault(
        "store-down", "the object store cuts every connection", *store.flag("down", True, "the object store is down")
    ),
    Fault(
        "store-refusing",
        "the object store answers 403 to everybody",
        *store.flag("refuse", True, "the object store refuses every request"),
    ),
    Fault(
        "store-slow",
        "every request to the object store takes half a second more",
        *store.flag("slow_ms", 500, "slowed"),
    ),
    Fault("archiver-broken", "the object store refuses the cluster's key: archiving fails", *store.deny("cluster_key")),
    Fault(
        "archiver-stuck", "uploads of WAL hang: archiving neither fails nor goes on", store.hold_wal, store.release_wal
    ),
    Fault("drill-denied", "the object store refuses the drill's key", *store.deny("drill_key")),
    Fault(
        "wal-removed",
        "a WAL segment that a recovery needs is gone from the bucket",
        archive.needed_wal("removed", None),
        archive.put_back,
    ),
    Fault(
        "wal-torn",
        "a WAL segment that a recovery needs is cut in half",
        archive.needed_wal("cut in half", archive.halved),
        archive.put_back,
    ),
    Fault(
        "wal-empty",
        "a WAL segment that a recovery needs holds no byte",
        archive.needed_wal("emptied", archive.emptied),
        archive.put_back,
    ),
    Fault(
        "wal-damaged",
        "a WAL segment that a recovery needs holds wrong bytes",
        archive.needed_wal("damaged bytes of", archive.damaged),
        archive.put_back,
    ),
    Fault(
        "wal-partial",
        "a .partial is in the place of a WAL segment that a recovery needs",
        archive.make_partial,
        archive.put_back,
    ),
    Fault(
        "wal-begin-removed",
        "the WAL segment in which the newest base backup begins is gone",
        archive.remove_begin_wal,
        archive.put_back,
    ),
    Fault(
        "history-removed",
        "the history file of the newest timeline is gone",
        archive.history("removed", None),
        archive.put_back,
    ),
    Fault(
        "history-damaged",
        "the history file of the newest timeline holds wrong bytes",
        archive.history("damaged bytes of", archive.damaged),
        archive.put_back,
    ),
    Fault(
        "backup-torn",
        "the newest base backup's data is cut in half",
        archive.backup_data("cut in half", archive.halved),
        archive.put_back,
    ),
    Fault(
        "backup-empty",
        "a part of the newest base backup holds no byte",
        archive.backup_data("emptied", archive.emptied),
        archive.put_back,
    ),
    Fault(
        "backup-data-removed",
        "the newest base backup's data is gone",
        archive.backup_data("removed", None),
        archive.put_back,
    ),
    Fault(
        "backup-cold",
        "the newest base backup's data is in Glacier",
        archive.backup_data("moved to Glacier", bytes, "GLACIER"),
        archive.put_back,
    ),
    Fault(
        "backup-info-removed",
        "the newest base backup's backup.info is gone",
        archive.backup_info("removed"),
        archive.put_back,
    ),
    Fault(
        "backup-failed",
        "the newest base backup's backup.info says FAILED",
        archive.backup_info("FAILED", ("^status=.*$", "status=FAILED"), ("^error=.*$", "error=disk full")),
        archive.put_back,
    ),
    Fault(
        "backup-foreign",
        "the newest base backup is another system's",
        archive.backup_info("another system's", ("^systemid=.*$", "systemid=7000000000000000001")),
        archive.put_back,
    ),
    Fault(
        "objectstore-missing", "the ObjectStore of the Cluster is deleted", cluster.delete_store, cluster.create_store
    ),
    Fault(
        "plugin-missing",
        "the Cluster asks for a plugin that the operator doesn't have",
        cluster.require_plugin,
        cluster.drop_plugin,
    ),
    Fault(
        "operator-gone",
        "CloudNativePG's controllers and webhooks are gone; the API and the pods live on",
        *cluster.switch("operator", "the operator has stopped"),
    ),
    Fault(
        "api-away",
        "nobody listens at the API server's address; controllers and pods live on",
        *cluster.interfere("the API server is away", away=True),
    ),
    Fault(
        "api-busy",
        "the API server answers every third request with 429 and Retry-After",
        *cluster.interfere(
            "every third request is answered 429",
            rules=[{"method": ".*", "status": 429, "times": 0, "every": 3, "retry_after": "1"}],
        ),
    ),
    Fault(
        "api-unsure",
        "every second change is done, and its answer is lost on the way",
        *cluster.interfere("every second change loses its answer", rules=[{"when": "lost", "times": 0, "every": 2}]),
    ),
    Fault("disk-full", "the primary's volume is full", cluster.fill_disk, cluster.empty_disk),
    Fault("replica-lagging", "a standby applies commits a day late", cluster.hold_replica, cluster.release_replica),
    Fault(
        "writer-stopped",
        "the tenants' writer is stopped",
        *cluster.switch("writer", "the tenants' writer process has ended"),
    ),
)
