"""Pure functions from (site, source, target) to the objects of a recovery copy.

The copy's Cluster is built from an allow-list of the source's fields; each one left out is listed with its reason.
The copy is quarantined before its first start: it can't archive (no ``spec.plugins``, no ``spec.backup``), it reads
the archive with read-only credentials, it runs no logical replication worker and preloads no job launcher, and a
NetworkPolicy lets out only DNS, the API server and the object store.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from drillbook.model import BaseBackup, ClusterRef, RecoveryTarget, show_instant
from drillbook.site import Site
from drillbook.sourcearchive import BARMAN_PLUGIN, IN_TREE, SourceArchive, endpoint_ca

RUN_LABEL = "drillbook.io/run"
EXPIRES = "drillbook.io/expires-at"

# Libraries that start background jobs as soon as the server is up: on a copy they would act on the outside world.
JOB_LAUNCHERS = {
    "pg_cron",
    "pg_timetable",
    "timescaledb",
    "pg_partman_bgw",
    "pglogical",
    "bucardo",
    "pgagent",
    "pg_net",
}
# Settings that belong to those libraries or would reach out of the copy.
REFUSED_PARAMETERS = ("cron.", "pg_partman_bgw.", "pglogical.", "timescaledb.", "pg_net.", "primary_", "synchronous_")

KEPT = {
    "imageName": "the same server and extensions",
    "imageCatalogRef": "the same server and extensions",
    "storage": "room for base backup and WAL",
    "walStorage": "volumes as in the source",
    "tablespaces": "volumes as in the source",
    "postgresql": "the server's settings",
    "resources": "comparable speed",
    "postgresUID": "file ownership",
    "postgresGID": "file ownership",
}
LEFT_OUT = {
    "instances": "a copy has as many as its procedure needs",
    "bootstrap": "replaced by bootstrap.recovery",
    "externalClusters": "replaced by the recovery source",
    "plugins": "a copy never archives: not even an entry with enabled: false",
    "backup": "a copy is never backed up",
    "managed": "roles come from the backup; no service of the source's name",
    "inheritedMetadata": "the source's labels could select the copy into its Services and policies",
    "monitoring": "no PodMonitor: a copy raises no production alert",
    "affinity": "scheduling is the drill namespace's own",
    "topologySpreadConstraints": "scheduling is the drill namespace's own",
    "priorityClassName": "a drill does not push production pods out",
    "certificates": "CloudNativePG issues the copy's own",
    "superuserSecret": "the copy gets a superuser password of its own",
    "enableSuperuserAccess": "switched on, for the copy only",
    "serviceAccountTemplate": "no cloud identity of the source's",
    "env": "may hold the source's settings or secrets",
    "envFrom": "may hold the source's settings or secrets",
    "projectedVolumeTemplate": "may hold the source's secrets",
    "replica": "a copy follows nobody",
    "replicationSlots": "a copy serves no replica",
    "primaryUpdateStrategy": "no update in a copy's short life",
    "primaryUpdateMethod": "no update in a copy's short life",
    "description": "the copy has its own",
}


@dataclass(frozen=True)
class Copy:
    """The names of a recovery copy; all of one run and one namespace."""

    ref: ClusterRef
    run_id: str
    owner: str  # the ConfigMap that owns everything, with the expiry
    store: str
    password_secret: str

    @classmethod
    def named(cls, site: Site, run_id: str, started_at: datetime) -> Copy:
        """``<cluster>-<compact UTC time>``, at most 50 characters as CloudNativePG demands."""
        stamp = started_at.strftime("%Y%m%d%H%M%S")
        name = f"{site.cluster.name[: 50 - len(stamp) - 7].rstrip('-')}-{stamp}"
        return cls(
            ref=ClusterRef(namespace=site.drill_namespace, name=name),
            run_id=run_id,
            owner=f"{name}-run",
            store=f"{name}-store",
            password_secret=f"{name}-owner",
        )


def _metadata(copy: Copy, name: str, owner_uid: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": copy.ref.namespace,
        "labels": {RUN_LABEL: copy.run_id, "app.kubernetes.io/managed-by": "drillbook"},
    }
    if owner_uid:
        owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": copy.owner, "uid": owner_uid}
        metadata["ownerReferences"] = [owner]
    return metadata


def owner_object(copy: Copy, *, source: ClusterRef, expires_at: datetime) -> dict[str, Any]:
    """The ConfigMap that everything of the run hangs on."""
    metadata = _metadata(copy, copy.owner, "")
    metadata["annotations"] = {EXPIRES: show_instant(expires_at)}
    data = {"run": copy.run_id, "source": str(source), "copy": copy.ref.name}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def backup(
    source: ClusterRef, run_id: str, *, method: str, reason: str, requested_at: datetime
) -> dict[str, Any]:
    """A Backup of the whole Cluster by its own method; without ``method: plugin`` a plugin's cluster would fail it."""
    spec: dict[str, Any] = {"cluster": {"name": source.name}, "method": method}
    if method != IN_TREE:
        spec["pluginConfiguration"] = {"name": BARMAN_PLUGIN}
    return {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Backup",
        "metadata": {
            "name": f"{source.name}-{requested_at.strftime('%Y%m%d%H%M%S')}",
            "namespace": source.namespace,
            "labels": {"cnpg.io/cluster": source.name, RUN_LABEL: run_id, "app.kubernetes.io/managed-by": "drillbook"},
            "annotations": {"drillbook.io/reason": reason},
        },
        "spec": spec,
    }


def password_secret(copy: Copy, *, username: str, password: str, owner_uid: str) -> dict[str, Any]:
    """Keeps the owner's password as it is: without it CloudNativePG would generate a new one."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/basic-auth",
        "metadata": _metadata(copy, copy.password_secret, owner_uid),
        "stringData": {"username": username, "password": password},
    }


def archive_as_read(site: Site, configuration: dict[str, Any]) -> dict[str, Any]:
    """The archive as the copy sees it: the source's place, and the read-only credentials of the drill namespace."""
    reader = site.archive.reader_secret
    kept: dict[str, Any] = {
        key: configuration[key] for key in ("destinationPath", "endpointURL") if key in configuration
    }
    if reader is None:
        kept["s3Credentials"] = {"inheritFromIAMRole": True}
    else:
        named = {
            "accessKeyId": reader.access_key_id,
            "secretAccessKey": reader.secret_access_key,
            "sessionToken": reader.session_token,
            "region": reader.region,
        }
        kept["s3Credentials"] = {field: {"name": reader.name, "key": key} for field, key in named.items() if key}
    if (ca := endpoint_ca(site, configuration)) is not None:
        kept["endpointCA"] = {"name": ca.name, "key": ca.key}
    for section, keys in (("wal", ("compression", "maxParallel")), ("data", ("compression", "jobs"))):
        found = {key: configuration[section][key] for key in keys if key in configuration.get(section, {})}
        if found:
            kept[section] = found
    return kept


def object_store(copy: Copy, site: Site, archive: SourceArchive, *, owner_uid: str) -> dict[str, Any]:
    """The ObjectStore that the plugin reads for the copy; it has no retention policy."""
    return {
        "apiVersion": "barmancloud.cnpg.io/v1",
        "kind": "ObjectStore",
        "metadata": _metadata(copy, copy.store, owner_uid),
        "spec": {"configuration": archive_as_read(site, archive.configuration)},
    }


def network_policy(copy: Copy, archive: SourceArchive, *, owner_uid: str, instances: int = 1) -> dict[str, Any]:
    """Lets the copy's pods out to DNS, the API server and the object store only; several instances, to each other too.

    A policy knows addresses and ports, no names: an object store given by name is allowed by its port.
    """
    endpoint = urlsplit(archive.configuration.get("endpointURL", "https://s3.amazonaws.com"))
    port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
    store_rule: dict[str, Any] = {"ports": [{"protocol": "TCP", "port": port}]}
    try:
        address = ipaddress.ip_address(endpoint.hostname or "")
        store_rule["to"] = [{"ipBlock": {"cidr": f"{address}/{address.max_prefixlen}"}}]
    except ValueError:
        pass
    own = {"podSelector": {"matchLabels": {"cnpg.io/cluster": copy.ref.name}}}
    # Replicas are made from the primary and follow it; the instances ask each other for their state.
    ports = [{"protocol": "TCP", "port": 5432}, {"protocol": "TCP", "port": 8000}]
    among = instances > 1
    dns = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(copy, f"{copy.ref.name}-quarantine", owner_uid),
        "spec": {
            **own,
            "policyTypes": ["Ingress", "Egress"],
            # The operator's probes and the instance's own status port; a port-forward does not pass here.
            "ingress": [
                {"ports": [{"protocol": "TCP", "port": 8000}]},
                *([{"from": [own], "ports": ports}] if among else []),
            ],
            "egress": [
                {"to": [dns], "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]},
                {"ports": [{"protocol": "TCP", "port": 6443}, {"protocol": "TCP", "port": 443}]},
                store_rule,
                *([{"to": [own], "ports": ports}] if among else []),
            ],
        },
    }


def recovery_target(target: RecoveryTarget, backup: BaseBackup) -> dict[str, Any]:
    """CloudNativePG's ``recoveryTarget``; the backup is pinned, and times carry their zone.

    The timeline is explicit but where PostgreSQL can't be given its number, see `objectstore.timelines`: it must be left
    out then, and PostgreSQL stays on the base backup's own.
    """
    found: dict[str, Any] = {"backupID": backup.backup_id}
    if target.target_time is not None:
        found["targetTime"] = show_instant(target.target_time)
    if target.target_lsn is not None:
        found["targetLSN"] = str(target.target_lsn)
    if target.target_xid is not None:
        found["targetXID"] = str(target.target_xid)
    if target.target_name is not None:
        found["targetName"] = target.target_name
    if target.target_immediate:
        found["targetImmediate"] = True
    if target.exclusive:
        found["exclusive"] = True
    if target.timeline is not None:
        found["targetTLI"] = str(target.timeline)
    return found


def _postgresql(source: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    left_out: list[tuple[str, str]] = []
    parameters: dict[str, str] = {}
    for name, value in source.get("parameters", {}).items():
        if name.startswith(REFUSED_PARAMETERS):
            left_out.append((f"postgresql.parameters.{name}", "would act on the outside world from a copy"))
        else:
            parameters[name] = value
    # A subscription in the copy would consume the source's publisher slot.
    parameters["max_logical_replication_workers"] = "0"
    found: dict[str, Any] = {"parameters": parameters}
    preload = [name for name in source.get("shared_preload_libraries", []) if name not in JOB_LAUNCHERS]
    left_out += [
        (f"postgresql.shared_preload_libraries: {name}", "starts jobs as soon as the server is up")
        for name in source.get("shared_preload_libraries", [])
        if name in JOB_LAUNCHERS
    ]
    if preload:
        found["shared_preload_libraries"] = preload
    left_out += [
        (f"postgresql.{name}", "not needed for a copy that only the drill reaches")
        for name in source
        if name not in ("parameters", "shared_preload_libraries")
    ]
    return found, left_out


def _recovery_source(copy: Copy, site: Site, archive: SourceArchive, backup: BaseBackup) -> dict[str, Any]:
    """The archive by the source's own method: where that works, what reads it is there.

    ``serverName`` is always named: its defaults differ, the plugin's is the copy's name and the other the entry's.
    """
    if archive.method == IN_TREE:
        read = archive_as_read(site, archive.configuration)
        return {"barmanObjectStore": {**read, "serverName": backup.server_name}}
    parameters = {"barmanObjectName": copy.store, "serverName": backup.server_name}
    return {"plugin": {"name": BARMAN_PLUGIN, "parameters": parameters}}


def recovery_cluster(
    copy: Copy,
    site: Site,
    source: dict[str, Any],
    *,
    archive: SourceArchive,
    backup: BaseBackup,
    target: RecoveryTarget,
    owner_uid: str,
    instances: int = 1,
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The copy's Cluster, and each of the source's fields that was left out with its reason.

    ``recovery`` names Drillbook's own database, owner and secret: unnamed, CloudNativePG would add a stray ``app``
    role, and without the secret it would change the owner's password.
    """
    spec: dict[str, Any] = {"instances": instances}
    left_out: list[tuple[str, str]] = []
    for name, value in source["spec"].items():
        if name == "postgresql":
            spec[name], dropped = _postgresql(value)
            left_out += dropped
        elif name == "storage":
            spec[name] = {key: value[key] for key in ("size", "storageClass") if key in value}
        elif name in KEPT:
            spec[name] = value
        else:
            left_out.append((name, LEFT_OUT.get(name, "not on the allow-list of a copy's fields")))
    spec.setdefault("postgresql", {"parameters": {"max_logical_replication_workers": "0"}})
    if site.copy_.storage_class:
        spec["storage"]["storageClass"] = site.copy_.storage_class
    if site.copy_.storage_size:
        spec["storage"]["size"] = site.copy_.storage_size
    if site.copy_.image:
        spec["imageName"] = site.copy_.image
    spec |= {
        "description": f"Drillbook copy of {source['metadata']['namespace']}/{source['metadata']['name']}: removed by its run",
        "enableSuperuserAccess": True,
        "bootstrap": {
            "recovery": {
                "source": "source",
                "database": site.sql.database,
                "owner": site.sql.role,
                "secret": {"name": copy.password_secret},
                "recoveryTarget": recovery_target(target, backup),
            }
        },
        "externalClusters": [{"name": "source", **_recovery_source(copy, site, archive, backup)}],
    }
    metadata = _metadata(copy, copy.ref.name, owner_uid)
    cluster = {"apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster", "metadata": metadata, "spec": spec}
    return cluster, left_out
