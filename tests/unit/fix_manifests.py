"""Clusters and ObjectStores as people run them, in our own small manifests: what a copy must make of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Wild:
    """One: its spec and store, and what the copy must have, must not have, and must say that it left out.

    ``kept`` names places as ``Cluster.a/b`` or ``Store.a/0/b``; ``gone`` as ``Cluster.a.b``.
    """

    name: str
    spec: dict[str, Any]
    store: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    profile: str = ""
    kept: dict[str, Any] = field(default_factory=dict)
    gone: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


ARCHIVER = {
    "name": "barman-cloud.cloudnative-pg.io",
    "isWALArchiver": True,
    "parameters": {"barmanObjectName": "store"},
}
KEYS = {"accessKeyId": {"name": "key", "key": "id"}, "secretAccessKey": {"name": "key", "key": "secret"}}
READER = {"name": "drillbook-archive-reader", "key": "AWS_ACCESS_KEY_ID"}
VCHORD = {"name": "vchord", "image": {"reference": "reg/vchord:16", "pullPolicy": "IfNotPresent"}}
CATALOGUE = {"apiGroup": "postgresql.cnpg.io", "kind": "ImageCatalog", "name": "ours", "major": 16}

WILD = (
    Wild(
        "b08 image volumes with their preload",
        {
            "postgresql": {
                "extensions": [VCHORD],
                "shared_preload_libraries": ["vchord.so"],
                "parameters": {"search_path": "a"},
            },
            "plugins": [ARCHIVER],
        },
        kept={"Cluster.postgresql/extensions": [VCHORD], "Cluster.postgresql/shared_preload_libraries": ["vchord.so"]},
        left_out=("plugins",),
    ),
    Wild(
        "b08 extensions by a catalogue",
        {
            "imageName": None,
            "imageCatalogRef": CATALOGUE,
            "imagePullSecrets": [{"name": "pull"}],
            "postgresql": {
                "extensions": [{"name": "vchord", "env": [{"name": "A", "value": "b"}]}],
                "shared_preload_libraries": ["vchord"],
            },
        },
        status={"image": "reg/pg:16.8-standard", "pgDataImageInfo": {"extensions": [VCHORD]}},
        kept={
            "Cluster.imageName": "reg/pg:16.8-standard",
            "Cluster.imagePullSecrets": [{"name": "pull"}],
            "Cluster.postgresql/extensions": [{**VCHORD, "env": [{"name": "A", "value": "b"}]}],
        },
        gone=("Cluster.imageCatalogRef",),
        left_out=("imageCatalogRef",),
    ),
    Wild(
        "hugepages and shared memory",
        {
            "resources": {"limits": {"hugepages-2Mi": "512Mi", "memory": "2Gi"}, "requests": {"cpu": "1"}},
            "postgresql": {"parameters": {"huge_pages": "on"}},
            "ephemeralVolumesSizeLimit": {"shm": "1Gi"},
        },
        kept={
            "Cluster.resources/limits/hugepages-2Mi": "512Mi",
            "Cluster.postgresql/parameters/huge_pages": "on",
            "Cluster.ephemeralVolumesSizeLimit/shm": "1Gi",
        },
    ),
    Wild(
        "a chain of earlier recoveries",
        {
            "bootstrap": {"recovery": {"source": "shop-db-v3"}},
            "plugins": [ARCHIVER],
            "externalClusters": [
                {
                    "name": f"shop-db-v{number}",
                    "plugin": {
                        "name": ARCHIVER["name"],
                        "parameters": {"barmanObjectName": "store", "serverName": f"shop-db-v{number}"},
                    },
                }
                for number in (1, 2, 3)
            ],
        },
        kept={
            "Cluster.externalClusters/0/plugin/parameters/serverName": "shop-db",
            "Cluster.bootstrap/recovery/source": "source",
        },
        left_out=("bootstrap", "externalClusters", "plugins"),
    ),
    Wild(
        "managed services and roles",
        {
            "managed": {
                "roles": [{"name": "app", "ensure": "present", "login": True}],
                "services": {
                    "additional": [
                        {
                            "selectorType": "rw",
                            "serviceTemplate": {"metadata": {"name": "db-lb"}, "spec": {"type": "LoadBalancer"}},
                        }
                    ]
                },
            },
            "inheritedMetadata": {"labels": {"team": "shop"}},
        },
        gone=("Cluster.managed", "Cluster.inheritedMetadata"),
        left_out=("managed", "inheritedMetadata"),
    ),
    Wild(
        "b12 rgw by a service with snappy wal and a region by env",
        {"plugins": [ARCHIVER]},
        {
            "retentionPolicy": "30d",
            "configuration": {
                "endpointURL": "http://rgw.rook-ceph.svc:80",
                "s3Credentials": KEYS,
                "wal": {
                    "compression": "snappy",
                    "maxParallel": 4,
                    "encryption": "AES256",
                    "restoreAdditionalCommandArgs": ["--read-timeout=60"],
                    "archiveAdditionalCommandArgs": ["-v"],
                },
                "data": {
                    "compression": "snappy",
                    "jobs": 2,
                    "immediateCheckpoint": True,
                    "additionalCommandArgs": ["--min-chunk-size=5MB"],
                    "restoreAdditionalCommandArgs": ["--read-timeout=60"],
                },
                "tags": {"a": "b"},
                "historyTags": {"a": "b"},
            },
            "instanceSidecarConfiguration": {
                "env": [
                    {"name": "AWS_DEFAULT_REGION", "value": "us-west-002"},
                    {"name": "AWS_REQUEST_CHECKSUM_CALCULATION", "value": "when_required"},
                    {"name": "AWS_SECRET_ACCESS_KEY", "valueFrom": {"secretKeyRef": {"name": "key", "key": "secret"}}},
                    {"name": "AWS_MAX_ATTEMPTS", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
                    {"name": "HTTPS_PROXY", "value": "http://user:word@proxy:3128"},
                ],
                "resources": {"limits": {"memory": "256Mi"}},
                "logLevel": "debug",
                "retentionPolicyIntervalSeconds": 60,
                "additionalContainerArgs": ["--pprof-server=false"],
            },
        },
        kept={
            "Store.configuration/endpointURL": "http://rgw.rook-ceph.svc:80",
            "Store.configuration/s3Credentials/accessKeyId": READER,
            "Store.configuration/wal": {
                "compression": "snappy",
                "maxParallel": 4,
                "restoreAdditionalCommandArgs": ["--read-timeout=60"],
            },
            "Store.configuration/data": {
                "compression": "snappy",
                "jobs": 2,
                "restoreAdditionalCommandArgs": ["--read-timeout=60"],
            },
            "Store.instanceSidecarConfiguration/env": [
                {"name": "AWS_DEFAULT_REGION", "value": "us-west-002"},
                {"name": "AWS_REQUEST_CHECKSUM_CALCULATION", "value": "when_required"},
            ],
            "Store.instanceSidecarConfiguration/resources": {"limits": {"memory": "256Mi"}},
            "Store.instanceSidecarConfiguration/additionalContainerArgs": ["--pprof-server=false"],
        },
        gone=("Store.retentionPolicy", "Store.configuration.tags"),
        left_out=(
            "ObjectStore.retentionPolicy",
            "ObjectStore.configuration.tags",
            "ObjectStore.configuration.historyTags",
            "ObjectStore.configuration.wal.encryption",
            "ObjectStore.configuration.wal.archiveAdditionalCommandArgs",
            "ObjectStore.configuration.data.immediateCheckpoint",
            "ObjectStore.configuration.data.additionalCommandArgs",
            "ObjectStore.instanceSidecarConfiguration.logLevel",
            "ObjectStore.instanceSidecarConfiguration.retentionPolicyIntervalSeconds",
            "ObjectStore.instanceSidecarConfiguration.env[AWS_SECRET_ACCESS_KEY]",
            "ObjectStore.instanceSidecarConfiguration.env[AWS_MAX_ATTEMPTS]",
            "ObjectStore.instanceSidecarConfiguration.env[HTTPS_PROXY]",
        ),
    ),
    *(
        Wild(
            f"wal by {codec}",
            {"plugins": [ARCHIVER]},
            {"configuration": {"s3Credentials": KEYS, "wal": {"compression": codec}}},
            kept={"Store.configuration/wal/compression": codec},
        )
        for codec in ("zstd", "lz4")
    ),
    Wild(
        "b11 a projected token and an account's annotations",
        {
            "serviceAccountTemplate": {
                "metadata": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/w"}}
            },
            "projectedVolumeTemplate": {"sources": [{"serviceAccountToken": {"path": "t", "audience": "sts"}}]},
            "plugins": [ARCHIVER],
        },
        {
            "configuration": {
                "s3Credentials": {"inheritFromIAMRole": True},
                "endpointURL": "https://s3.seaweed.svc:8333",
            },
            "instanceSidecarConfiguration": {
                "env": [
                    {"name": "AWS_WEB_IDENTITY_TOKEN_FILE", "value": "/projected/t"},
                    {"name": "AWS_ROLE_ARN", "value": "arn:aws:iam::1:role/w"},
                    {"name": "AWS_ENDPOINT_URL_STS", "value": "https://sts.seaweed.svc"},
                ]
            },
        },
        profile="archive: {reader_secret: null, identity: {annotations: {eks.amazonaws.com/role-arn: 'arn:aws:iam::1:role/r'}}}\n",
        kept={
            "Store.configuration/s3Credentials": {"inheritFromIAMRole": True},
            "Store.instanceSidecarConfiguration/env": [
                {"name": "AWS_ENDPOINT_URL_STS", "value": "https://sts.seaweed.svc"}
            ],
            "Cluster.serviceAccountTemplate/metadata/annotations": {
                "eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/r"
            },
        },
        gone=("Cluster.projectedVolumeTemplate",),
        left_out=(
            "serviceAccountTemplate",
            "projectedVolumeTemplate",
            "ObjectStore.instanceSidecarConfiguration.env[AWS_ROLE_ARN]",
            "ObjectStore.instanceSidecarConfiguration.env[AWS_WEB_IDENTITY_TOKEN_FILE]",
        ),
    ),
    Wild(
        "b09 size and class in claim templates only",
        {
            "storage": {
                "pvcTemplate": {
                    "accessModes": ["ReadWriteOnce"],
                    "storageClassName": "managed-premium",
                    "volumeName": "pv-7",
                    "resources": {"requests": {"storage": "64Gi"}},
                }
            },
            "walStorage": {"pvcTemplate": {"resources": {"requests": {"storage": "8Gi"}}, "volumeMode": "Filesystem"}},
            "tablespaces": [
                {
                    "name": "hot",
                    "owner": {"name": "app"},
                    "storage": {
                        "size": "1Gi",
                        "pvcTemplate": {
                            "storageClassName": "nvme",
                            "dataSource": {"kind": "PersistentVolumeClaim", "name": "x"},
                        },
                    },
                }
            ],
        },
        kept={
            "Cluster.storage/pvcTemplate": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "managed-premium",
                "resources": {"requests": {"storage": "64Gi"}},
            },
            "Cluster.walStorage/pvcTemplate": {
                "resources": {"requests": {"storage": "8Gi"}},
                "volumeMode": "Filesystem",
            },
            "Cluster.tablespaces": [
                {
                    "name": "hot",
                    "owner": {"name": "app"},
                    "storage": {"size": "1Gi", "pvcTemplate": {"storageClassName": "nvme"}},
                }
            ],
        },
        left_out=("storage.pvcTemplate.volumeName", "tablespaces[hot].storage.pvcTemplate.dataSource"),
    ),
    Wild(
        "b09 a template next to the profile's own size and class",
        {
            "storage": {
                "size": "10Gi",
                "pvcTemplate": {"storageClassName": "a", "resources": {"requests": {"storage": "1Gi"}}},
            }
        },
        profile="copy: {storage_class: scratch, storage_size: 20Gi}\n",
        kept={"Cluster.storage/size": "20Gi", "Cluster.storage/storageClass": "scratch"},
    ),
    Wild(
        "a short name as the endpoint",
        {"plugins": [ARCHIVER]},
        {"configuration": {"endpointURL": "http://minio:9000/", "s3Credentials": KEYS}},
        kept={"Store.configuration/endpointURL": "http://minio.databases.svc:9000/"},
        left_out=("ObjectStore.configuration.endpointURL",),
    ),
    Wild(
        "an existing account",
        {"serviceAccountName": "shop-irsa", "plugins": [ARCHIVER]},
        {"configuration": {"s3Credentials": {"inheritFromIAMRole": True}}},
        gone=("Cluster.serviceAccountName",),
        left_out=("serviceAccountName",),
    ),
    Wild(
        "a plugin that isn't the archiver, and volume snapshots",
        {
            "plugins": [ARCHIVER, {"name": "other.example", "isWALArchiver": False}],
            "backup": {"volumeSnapshot": {"className": "csi", "online": True}, "target": "prefer-standby"},
        },
        gone=("Cluster.backup", "Cluster.plugins"),
        left_out=("plugins", "backup"),
    ),
    Wild(
        "b15 timescaledb and pg_cron",
        {
            "postgresql": {
                "shared_preload_libraries": ["timescaledb", "pg_cron"],
                "pg_hba": ["host all all all md5"],
                "parameters": {
                    "cron.database_name": "shop",
                    "timescaledb.max_background_workers": "16",
                    "timescaledb.license": "timescale",
                },
            }
        },
        kept={
            "Cluster.postgresql/shared_preload_libraries": ["timescaledb"],
            "Cluster.postgresql/parameters/timescaledb.max_background_workers": "0",
            "Cluster.postgresql/parameters/timescaledb.license": "timescale",
        },
        left_out=(
            "postgresql.shared_preload_libraries: pg_cron",
            "postgresql.parameters.cron.database_name",
            "postgresql.parameters.timescaledb.max_background_workers",
            "postgresql.pg_hba",
        ),
    ),
    Wild(
        "synchronous replicas and slots",
        {
            "minSyncReplicas": 1,
            "maxSyncReplicas": 1,
            "replicationSlots": {"highAvailability": {"enabled": True}},
            "postgresql": {
                "synchronous": {"method": "any", "number": 1},
                "parameters": {"pg_failover_slots.synchronize_slot_names": "name:x"},
            },
        },
        left_out=(
            "minSyncReplicas",
            "maxSyncReplicas",
            "replicationSlots",
            "postgresql.synchronous",
            "postgresql.parameters.pg_failover_slots.synchronize_slot_names",
        ),
    ),
    Wild(
        "certificates of one's own and the skipped check",
        {
            "certificates": {"serverTLSSecret": "tls", "serverCASecret": "ca"},
            "superuserSecret": {"name": "su"},
            "enableSuperuserAccess": True,
            "monitoring": {"enablePodMonitor": True},
            "plugins": [ARCHIVER],
        },
        kept={"Cluster.enableSuperuserAccess": True},
        gone=("Cluster.certificates", "Cluster.superuserSecret"),
        left_out=("certificates", "superuserSecret", "enableSuperuserAccess", "monitoring"),
    ),
    Wild(
        "b10 in-tree with settings in the environment",
        {
            "backup": {
                "barmanObjectStore": {
                    "destinationPath": "s3://b/p",
                    "endpointURL": "https://s3.eu.backblaze.example",
                    "s3Credentials": KEYS,
                    "wal": {"restoreAdditionalCommandArgs": ["-v"]},
                    "tags": {"a": "b"},
                },
                "retentionPolicy": "7d",
            },
            "env": [{"name": "AWS_REGION", "value": "eu-1"}, {"name": "TZ", "value": "UTC"}],
            "envFrom": [{"secretRef": {"name": "more"}}],
        },
        kept={
            "Cluster.env": [{"name": "AWS_REGION", "value": "eu-1"}],
            "Cluster.externalClusters/0/barmanObjectStore/wal": {"restoreAdditionalCommandArgs": ["-v"]},
        },
        gone=("Cluster.envFrom", "Cluster.backup"),
        left_out=("backup", "env[TZ]", "envFrom", "backup.barmanObjectStore.tags"),
    ),
    Wild(
        "what a restricted namespace asks for, and slow starts",
        {
            "podSecurityContext": {"fsGroup": 26},
            "securityContext": {"runAsNonRoot": True},
            "seccompProfile": {"type": "RuntimeDefault"},
            "startDelay": 7200,
            "probes": {"startup": {"failureThreshold": 60}},
            "schedulerName": "x",
            "stopDelay": 60,
            "affinity": {"nodeSelector": {"disk": "fast"}},
            "logLevel": "error",
            "postgresql": {"promotionTimeout": 600},
        },
        kept={
            "Cluster.podSecurityContext": {"fsGroup": 26},
            "Cluster.startDelay": 7200,
            "Cluster.postgresql/promotionTimeout": 600,
            "Cluster.probes/startup/failureThreshold": 60,
        },
        left_out=("schedulerName", "stopDelay", "affinity", "logLevel"),
    ),
)
