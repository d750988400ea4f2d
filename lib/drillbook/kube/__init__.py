"""Kubernetes: the only user of the official client (REST, watch, logs) and of aiohttp (exec, port-forward).

The official client's own streams patch the shared client, lose exit codes and output, and run a thread for every
forward; one event loop on one thread does both instead.
"""

from drillbook.kube.client import Kube
from drillbook.kube.endurance import PATIENCE_SECONDS
from drillbook.kube.execution import ExecResult
from drillbook.kube.forwarding import Forward
from drillbook.kube.kinds import (
    APPLICATION,
    AUTOSCALER,
    BACKUP,
    CLUSTER,
    CONFIG_MAP,
    DEPLOYMENT,
    ENDPOINT_SLICE,
    ENDPOINTS,
    EVENT,
    JOB,
    KINDS,
    LEASE,
    NAMESPACE,
    NETWORK_POLICY,
    NODE,
    OBJECT_STORE,
    POD,
    POOLER,
    PVC,
    SCHEDULED_BACKUP,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    STORAGE_CLASS,
    VOLUME_SNAPSHOT,
    Kind,
    kind_of,
)
from drillbook.kube.lease import Lease
from drillbook.kube.logs import LogStream
from drillbook.kube.piping import Command, Piped
from drillbook.kube.transport import NO_ANSWER
from drillbook.kube.watching import describe
from drillbook.model import Actor

__all__ = [
    "APPLICATION",
    "AUTOSCALER",
    "BACKUP",
    "CLUSTER",
    "CONFIG_MAP",
    "DEPLOYMENT",
    "ENDPOINTS",
    "ENDPOINT_SLICE",
    "EVENT",
    "JOB",
    "KINDS",
    "LEASE",
    "NAMESPACE",
    "NETWORK_POLICY",
    "NODE",
    "NO_ANSWER",
    "OBJECT_STORE",
    "PATIENCE_SECONDS",
    "POD",
    "POOLER",
    "PVC",
    "SCHEDULED_BACKUP",
    "SECRET",
    "SERVICE",
    "SERVICE_ACCOUNT",
    "STORAGE_CLASS",
    "VOLUME_SNAPSHOT",
    "Actor",
    "Command",
    "ExecResult",
    "Forward",
    "Kind",
    "Kube",
    "Lease",
    "LogStream",
    "Piped",
    "describe",
    "kind_of",
]
