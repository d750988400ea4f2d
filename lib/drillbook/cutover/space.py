"""How much room an instance's volumes have: what the file system says, and no more than the claim was given."""

from __future__ import annotations

from pathlib import PurePosixPath

from drillbook import kube as k8s
from drillbook.cutover.superuser import CONTAINER
from drillbook.errors import KubernetesError
from drillbook.model import Frozen
from drillbook.site import size_bytes

_SECONDS = 120.0


class Room(Frozen):
    """Free bytes of one instance, the least of its volumes."""

    pod: str
    free_bytes: int
    volume: str


def free_on(kube: k8s.Kube, namespace: str, pod: str) -> Room:
    """Look at the instance's volumes, by ``df`` and ``du`` in its pod and the claims' capacity; changes nothing.

    Storage that is a directory of a larger disk doesn't enforce its claim, so the claim counts as well. Raises
    KubernetesError if the pod can't be looked into.
    """
    rooms = [_of(kube, namespace, pod, pod, PurePosixPath(_run(kube, namespace, pod, "printenv", "PGDATA")).parent)]
    if kube.get(k8s.PVC, namespace, f"{pod}-wal") is not None:
        rooms.append(_of(kube, namespace, pod, f"{pod}-wal", PurePosixPath("/var/lib/postgresql/wal")))
    return min(rooms, key=lambda room: room.free_bytes)


def _of(kube: k8s.Kube, namespace: str, pod: str, claim: str, folder: PurePosixPath) -> Room:
    free = int(_run(kube, namespace, pod, "df", "-P", "-B1", str(folder)).splitlines()[-1].split()[3])
    found = kube.get(k8s.PVC, namespace, claim)
    capacity = ((found or {}).get("status") or {}).get("capacity", {}).get("storage", "")
    if capacity:
        used = int(_run(kube, namespace, pod, "du", "-s", "-B1", "--apparent-size", str(folder)).split()[0])
        free = min(free, size_bytes(capacity) - used)
    return Room(pod=pod, free_bytes=free, volume=claim)


def _run(kube: k8s.Kube, namespace: str, pod: str, *argv: str) -> str:
    done = kube.exec(namespace, pod, CONTAINER, argv, timeout_seconds=_SECONDS, repeatable=True)
    # du ends with 1 when a file vanished under it, which a running server's files do; its sum is there all the same.
    if not done.stdout.strip() or (done.exit_code != 0 and argv[0] != "du"):
        raise KubernetesError(
            f"{argv[0]} in {k8s.POD.where(namespace, pod)} ended with {done.exit_code}: {done.error_text.strip()[:200]}",
            todo="Look into the pod by hand.",
        )
    return done.text.strip()
