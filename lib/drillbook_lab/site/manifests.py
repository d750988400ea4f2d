"""The objects of a site: pure functions of its data, its passwords and the store's address."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from drillbook_lab.api.errors import Object
from drillbook_lab.operator.objects import PLUGIN
from drillbook_lab.site import deploy
from drillbook_lab.site.site import LabSite

EVIDENCE = "drillbook-evidence"
"""The bucket with Object Lock, and the Secret in Drillbook's namespace with the one key to it besides the owner's."""
RETRIEVAL = "drillbook-retrieval"
"""The Secret in Drillbook's namespace with the key that may ask for archived objects, and do nothing else."""


def _password() -> str:
    return secrets.token_urlsafe(32)


@dataclass(frozen=True)
class StoreKey:
    """A key to the object store."""

    access: str = field(default_factory=lambda: "LAB" + secrets.token_hex(8).upper())
    secret: str = field(default_factory=_password, repr=False)


@dataclass(frozen=True)
class Credentials:
    """What is regenerated for each lab; kept in Secrets and nowhere else."""

    cluster_key: StoreKey
    drill_key: StoreKey
    evidence_key: StoreKey
    retrieval_key: StoreKey
    admin_key: StoreKey
    sql: str = field(repr=False)
    tenants: dict[str, str] = field(repr=False)

    @classmethod
    def draw(cls, site: LabSite) -> Credentials:
        """New credentials for a site."""
        owners = {tenant.owner: _password() for tenant in site.tenants}
        return cls(StoreKey(), StoreKey(), StoreKey(), StoreKey(), StoreKey(), _password(), owners)

    def store_keys(self, site: LabSite) -> Object:
        """The gate's `keys.json`: the cluster writes, the drill only reads, one key asks for archived objects; evidence is apart."""
        prefix = [f"{site.store.bucket}/{site.store.path}"]
        return {
            self.cluster_key.access: {"secret": self.cluster_key.secret, "policy": "readwrite", "prefixes": prefix},
            self.drill_key.access: {"secret": self.drill_key.secret, "policy": "readonly", "prefixes": prefix},
            self.retrieval_key.access: {"secret": self.retrieval_key.secret, "policy": "retrieval", "prefixes": prefix},
            self.evidence_key.access: {
                "secret": self.evidence_key.secret,
                "policy": "readwrite",
                "prefixes": [EVIDENCE],
            },
            self.admin_key.access: {"secret": self.admin_key.secret, "policy": "readwrite", "prefixes": None},
        }


def _meta(name: str, namespace: str | None = None, **labels: str) -> Object:
    meta: Object = {"name": name}
    if namespace is not None:
        meta["namespace"] = namespace
    if labels:
        meta["labels"] = labels
    return meta


def _secret(name: str, namespace: str, values: dict[str, str], type_: str = "Opaque") -> Object:
    # `cnpg.io/reload` is CNPG's own label for Secrets whose change it is to notice.
    meta = _meta(name, namespace, **{"cnpg.io/reload": "true"})
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": type_, "stringData": values}


def _login(name: str, namespace: str, user: str, password: str) -> Object:
    return _secret(name, namespace, {"username": user, "password": password}, "kubernetes.io/basic-auth")


def _key(name: str, namespace: str, key: StoreKey) -> Object:
    return _secret(name, namespace, {"AWS_ACCESS_KEY_ID": key.access, "AWS_SECRET_ACCESS_KEY": key.secret})


def namespaces(site: LabSite) -> list[Object]:
    """The namespaces that are there before Drillbook is installed, and the storage classes: one that keeps volumes."""
    found: list[Object] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": _meta(name)} for name in site.namespaces
    ]
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    for name, marks, policy in (
        (site.storage_class, default, "Delete"),
        (f"{site.storage_class}-retain", {}, "Retain"),
    ):
        found.append(
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": {**_meta(name), "annotations": dict(marks)},
                "provisioner": "drillbook.lab/directory",
                "reclaimPolicy": policy,
                "allowVolumeExpansion": True,
            }
        )
    return found


def secret_objects(site: LabSite, credentials: Credentials) -> list[Object]:
    """Keys and passwords, in the namespaces where each of them is needed."""
    source, own = site.source_namespace, site.drillbook_namespace
    found = [
        _key(site.store.secret, source, credentials.cluster_key),
        _key(site.store.reader_secret, site.drill_namespace, credentials.drill_key),
        _key(site.store.reader_secret, own, credentials.drill_key),
        _key(EVIDENCE, own, credentials.evidence_key),
        _key(RETRIEVAL, own, credentials.retrieval_key),
        _login(site.sql_secret, source, "drillbook", credentials.sql),
        _login(site.sql_secret, own, "drillbook", credentials.sql),
    ]
    for tenant in site.tenants:
        password = credentials.tenants[tenant.owner]
        found.append(_login(site.tenant_secret(tenant), source, tenant.owner, password))
        found.append(_login(site.login_secret(tenant), own, tenant.owner, password))
    return found


def _credentials_reference(secret: str) -> Object:
    return {
        "accessKeyId": {"name": secret, "key": "AWS_ACCESS_KEY_ID"},
        "secretAccessKey": {"name": secret, "key": "AWS_SECRET_ACCESS_KEY"},
    }


def _configuration(site: LabSite, endpoint: str) -> Object:
    """Where the archive is: the same for the plugin and in-tree."""
    return {
        "destinationPath": f"s3://{site.store.bucket}/{site.store.path}",
        "endpointURL": endpoint,
        "s3Credentials": _credentials_reference(site.store.secret),
        "wal": dict(site.store.wal),
        "data": dict(site.store.data),
    }


def object_store(site: LabSite, endpoint: str) -> Object:
    """The archive, as the barman plugin is reported about it."""
    return {
        "apiVersion": "barmancloud.cnpg.io/v1",
        "kind": "ObjectStore",
        "metadata": _meta(site.store.name, site.source_namespace),
        "spec": {
            "retentionPolicy": site.store.retention,
            "configuration": _configuration(site, endpoint),
        },
    }


def cluster(site: LabSite, image: str) -> Object:
    """The cluster: the first tenant by bootstrap, the others' roles and the drill's as managed ones.

    It begins without an archive: the load's WAL would only be compressed to be never read.
    """
    first, *others = site.tenants
    roles = [
        {
            "name": tenant.owner,
            "login": True,
            "connectionLimit": tenant.connection_limit,
            "passwordSecret": {"name": site.tenant_secret(tenant)},
        }
        for tenant in others
    ]
    return {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Cluster",
        "metadata": _meta(site.cluster, site.source_namespace),
        "spec": {
            "instances": 1,
            "imageName": image,
            "storage": {"size": site.storage, "storageClass": site.storage_class},
            "postgresql": {"parameters": dict(site.parameters)},
            "bootstrap": {
                "initdb": {
                    "database": first.database,
                    "owner": first.owner,
                    "secret": {"name": site.app_secret},
                    "dataChecksums": True,
                }
            },
            "managed": {"roles": [*roles, deploy.managed_role(site)]},
        },
    }


def archiving(site: LabSite, endpoint: str) -> Object:
    """The patch that switches continuous archiving on, once the data has been loaded."""
    if site.in_tree:
        section = {**_configuration(site, endpoint), "serverName": site.cluster}
        return {"spec": {"backup": {"barmanObjectStore": section, "retentionPolicy": site.store.retention}}}
    entry = {
        "name": PLUGIN,
        "isWALArchiver": True,
        "parameters": {"barmanObjectName": site.store.name, "serverName": site.cluster},
    }
    return {"spec": {"plugins": [entry]}}


def _method(site: LabSite) -> Object:
    """How a Backup is taken."""
    return {"method": site.backup_method} | ({} if site.in_tree else {"pluginConfiguration": {"name": PLUGIN}})


def scheduled_backup(site: LabSite) -> Object:
    """The daily backup: six fields, seconds first."""
    return {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "ScheduledBackup",
        "metadata": _meta(site.schedule_name, site.source_namespace),
        "spec": {
            "schedule": site.schedule_cron,
            "cluster": {"name": site.cluster},
            **_method(site),
            "backupOwnerReference": "none",
        },
    }


def backup(site: LabSite, name: str) -> Object:
    """One base backup, asked for as the kubectl plugin does."""
    return {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Backup",
        "metadata": _meta(name, site.source_namespace, **{"cnpg.io/cluster": site.cluster}),
        "spec": {"cluster": {"name": site.cluster}, **_method(site)},
    }
