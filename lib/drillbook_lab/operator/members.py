"""The instances of a Cluster as they are now: their claims, pods and Jobs, and what their servers have said."""

from __future__ import annotations

from dataclasses import dataclass, field

from drillbook_lab.api.errors import Object
from drillbook_lab.operator.context import Operator, holds
from drillbook_lab.operator.reply import Reply


class Halt(Exception):
    """This look at the Cluster ends here; the next one comes after these seconds, or with the next event."""

    def __init__(self, seconds: float | None = None) -> None:
        super().__init__(seconds)
        self.seconds = seconds


@dataclass
class Members:
    """What a look at a Cluster found. Instances are in the order of their serials."""

    claims: dict[str, Object] = field(default_factory=dict)  # those that stay
    leaving: set[str] = field(default_factory=set)  # instances whose volume is on its way out
    pods: dict[str, Object] = field(default_factory=dict)
    jobs: list[Object] = field(default_factory=list)
    replies: dict[str, Reply] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The instances, by serial."""
        return list(self.claims)

    def complete(self) -> list[str]:
        """Instances whose data directory is there."""
        return [name for name, claim in self.claims.items() if status_of(claim) == "ready"]

    def is_ready(self, instance: str) -> bool:
        """Whether the instance's pod is there to stay, and its server answers."""
        pod = self.pods.get(instance)
        return pod is not None and not pod["metadata"].get("deletionTimestamp") and holds(pod, "Ready")

    def replicas(self) -> dict[str, Reply]:
        """The standbys that answered."""
        return {name: reply for name, reply in self.replies.items() if reply.in_recovery}


def survey(operator: Operator, cluster: Object) -> Members:
    """Read all of it again."""
    meta = cluster["metadata"]
    found = Members()
    selector = f"cnpg.io/cluster={meta['name']}"
    claims = operator.owned(cluster, "PersistentVolumeClaim", f"{selector},cnpg.io/pvcRole=PG_DATA")
    for claim in sorted(claims, key=serial):
        if claim["metadata"].get("deletionTimestamp"):
            found.leaving.add(claim["metadata"]["name"])
        else:
            found.claims[claim["metadata"]["name"]] = claim
    for pod in operator.owned(cluster, "Pod", f"{selector},cnpg.io/podRole=instance"):
        found.pods[pod["metadata"]["name"]] = pod
    found.jobs = [job for job in operator.owned(cluster, "Job") if "cnpg.io/jobRole" in job["metadata"]["labels"]]
    return found


def serial(claim: Object) -> int:
    """The number of a claim's instance."""
    annotations = claim["metadata"].get("annotations") or {}
    return int(annotations.get("cnpg.io/nodeSerial") or claim["metadata"]["name"].rpartition("-")[2])


def status_of(claim: Object) -> str:
    """`initializing`, `ready` or `detached`."""
    return str((claim["metadata"].get("annotations") or {}).get("cnpg.io/pvcStatus", ""))
