"""How much room an instance's volumes have: what the file system says, and no more than the claim was given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from drillbook import kube as k8s
from drillbook.errors import KubernetesError
from drillbook.model import Frozen
from drillbook.profile import size_bytes
from drillbook.swap.superuser import CONTAINER

DATA, WAL = "data", "WAL"
FACTOR = 1.3  # of what is transferred: tables and indexes while they are built
DEFAULT_TABLESPACES = ("", "pg_default")
_RESERVE = 0.05  # of a volume: CloudNativePG stops PostgreSQL, for every tenant, before the last byte is gone
_LEAST_RESERVE = 16 * 2**20
_SECONDS = 120.0


class FreeSpace(Frozen):
    """Free bytes of one volume of an instance; ``holds`` is data, WAL (where it has its own volume) or a tablespace's name."""

    pod: str
    free_bytes: int
    volume: str
    holds: str = DATA
    capacity_bytes: int = 0

    @property
    def reserve_bytes(self) -> int:
        """What must stay free."""
        return max(_LEAST_RESERVE, int(self.capacity_bytes * _RESERVE))


class Needs(Frozen):
    """What transferring a database takes: bytes by tablespace, and the WAL that may be there at once.

    WAL is archived and removed as it is written. What may pile up is what waits now, and as much as is between two
    checkpoints (max_wal_size); more is watched for while the database is transferred.
    """

    tablespaces: tuple[tuple[str, int], ...]
    wal_bytes: int

    @property
    def database_bytes(self) -> int:
        """The database itself."""
        return sum(size for _, size in self.tablespaces)

    def of(self, room: FreeSpace, *, own_wal_volume: bool) -> int:
        """The bytes that this volume needs, without its reserve."""
        if room.holds == WAL:
            return self.wal_bytes
        own = {DATA: DEFAULT_TABLESPACES}.get(room.holds, (room.holds,))
        size = sum(size for name, size in self.tablespaces if name in own)
        return int(size * FACTOR) + (self.wal_bytes if room.holds == DATA and not own_wal_volume else 0)

    def faults(self, rooms: list[FreeSpace]) -> list[str]:
        """Every volume that is too small, in words."""
        faults = []
        for room in rooms:
            apart = any(other.pod == room.pod and other.holds == WAL for other in rooms)
            needed = self.of(room, own_wal_volume=apart)
            if needed and room.free_bytes < needed + room.reserve_bytes:
                faults.append(
                    f"instance {room.pod} has {room.free_bytes:,} bytes free on {room.volume} ({room.holds}); {needed:,} are needed, "
                    f"and {room.reserve_bytes:,} must stay free"
                )
        return faults


def rooms_on(kube: k8s.Kube, namespace: str, cluster: Mapping[str, object], pod: str) -> list[FreeSpace]:
    """The volumes of one instance, by ``df`` and ``du`` in its pod and the claims' capacity; changes nothing.

    Storage that is a directory of a larger disk doesn't enforce its claim, so the claim counts as well. Raises
    KubernetesError if the pod can't be looked into.
    """
    data = PurePosixPath(_run(kube, namespace, pod, "printenv", "PGDATA")).parent
    places = [(DATA, pod, data)]
    if kube.get(k8s.PVC, namespace, f"{pod}-wal") is not None:
        places.append((WAL, f"{pod}-wal", PurePosixPath("/var/lib/postgresql/wal")))
    folder_of = PurePosixPath("/var/lib/postgresql/tablespaces")
    places += [(name, f"{pod}-tbs-{name.replace('_', '-')}", folder_of / name) for name in tablespaces_of(cluster)]
    return [_of(kube, namespace, pod, claim, folder, holds) for holds, claim, folder in places]


def tablespaces_of(cluster: Mapping[str, object]) -> list[str]:
    """The tablespaces that the Cluster declares."""
    declared = (cluster.get("spec") or {}).get("tablespaces") or []  # type: ignore[attr-defined]
    return [str(one["name"]) for one in declared]


def _of(kube: k8s.Kube, namespace: str, pod: str, claim: str, folder: PurePosixPath, holds: str) -> FreeSpace:
    told = _run(kube, namespace, pod, "df", "-P", "-B1", str(folder)).split("\n")[-1].split()
    size, free = int(told[1]), int(told[3])
    found = kube.get(k8s.PVC, namespace, claim)
    capacity = ((found or {}).get("status") or {}).get("capacity", {}).get("storage", "")
    if capacity:
        used = int(_run(kube, namespace, pod, "du", "-s", "-B1", "--apparent-size", str(folder)).split()[0])
        size = min(size, size_bytes(capacity))
        free = min(free, size_bytes(capacity) - used)
    return FreeSpace(pod=pod, free_bytes=free, volume=claim, holds=holds, capacity_bytes=size)


def _run(kube: k8s.Kube, namespace: str, pod: str, *argv: str) -> str:
    done = kube.exec(namespace, pod, CONTAINER, argv, timeout_seconds=_SECONDS, repeatable=True)
    # du ends with 1 when a file vanished under it, which a running server's files do; its sum is there all the same.
    if not done.stdout.strip() or (done.exit_code != 0 and argv[0] != "du"):
        raise KubernetesError(
            f"{argv[0]} in {k8s.POD.where(namespace, pod)} ended with {done.exit_code}: {done.error_text.strip()[:200]}",
            todo="Look into the pod by hand.",
        )
    return done.text.strip()
