"""A lab site as data: names, tenants, sizes. Read from `sites/<profile>.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from drillbook_lab.usage import UsageFault

BACKUP_METHODS = ("plugin", "barmanObjectStore")


@dataclass(frozen=True)
class Tenant:
    """One platform of the cluster: its database, its role, its data, and what its users do all day."""

    database: str
    owner: str
    data: str  # the name of a script in sql/
    share: float  # of the site's data
    rows_per_mb: float  # what makes a megabyte of tables and indexes with that script
    schemas: tuple[str, ...]  # those that the drill role may read
    writes: tuple[str, ...]
    connection_limit: int = -1


@dataclass(frozen=True)
class App:
    """The application of the first tenant: what serves its users."""

    name: str
    namespace: str
    replicas: int
    health: str
    resource: str
    variables: dict[str, str]  # what the app calls its address, login and pool in its environment
    pool: int
    minimum_idle: int
    create: tuple[str, ...]
    find: str
    defaults: dict[str, Any]


@dataclass(frozen=True)
class Store:
    """The site's archive, and the two keys to it."""

    name: str
    bucket: str
    path: str
    secret: str
    reader_secret: str
    retention: str
    wal: dict[str, Any]
    data: dict[str, Any]


@dataclass(frozen=True)
class LabSite:
    """Everything that differs between two sites."""

    profile: str
    source_namespace: str
    drillbook_namespace: str
    drill_namespace: str
    other_namespaces: tuple[str, ...]
    storage_class: str
    cluster: str
    storage: str
    app_secret: str
    parameters: dict[str, str]
    store: Store
    schedule_name: str
    schedule_cron: str
    sql_secret: str
    tenants: tuple[Tenant, ...]
    app: App
    backup_method: str = "plugin"

    @property
    def in_tree(self) -> bool:
        """Whether CloudNativePG itself archives, without the plugin and its ObjectStore."""
        return self.backup_method == "barmanObjectStore"

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Every namespace of the site but Drillbook's two, which `deploy/namespaces.yaml` makes."""
        return (self.source_namespace, self.app.namespace, *self.other_namespaces)

    def tenant_secret(self, tenant: Tenant) -> str:
        """The Secret that holds a tenant's password in the cluster's namespace."""
        return self.app_secret if tenant is self.tenants[0] else f"{tenant.database}-credentials"

    @staticmethod
    def login_secret(tenant: Tenant) -> str:
        """The Secret in Drillbook's namespace by which a drill proves that the tenant can log in."""
        return f"app-login-{tenant.database}"


def profiles() -> list[str]:
    """The sites that ship with the lab."""
    folder = resources.files(__package__) / "sites"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load(profile: str, backup_method: str = "plugin") -> LabSite:
    """A site by its profile's name; `UsageFault` names those that there are, and the ways to back up."""
    if backup_method not in BACKUP_METHODS:
        found = f"choose one of {', '.join(BACKUP_METHODS)}"
        raise UsageFault("there is no such way to back up", repr(backup_method), found)
    if profile not in profiles():
        raise UsageFault("there is no such lab site", repr(profile), f"choose one of {', '.join(profiles())}")
    text = (resources.files(__package__) / "sites" / f"{profile}.yaml").read_text(encoding="utf-8")
    raw = yaml.safe_load(text)
    namespaces, cluster = raw["namespaces"], raw["cluster"]
    tenants = tuple(
        Tenant(**{**entry, "schemas": tuple(entry["schemas"]), "writes": tuple(entry["writes"])})
        for entry in raw["tenants"]
    )
    return LabSite(
        profile=profile,
        source_namespace=namespaces["source"],
        drillbook_namespace=namespaces["drillbook"],
        drill_namespace=namespaces["drills"],
        other_namespaces=tuple(namespaces["others"]),
        storage_class=raw["storage_class"],
        cluster=cluster["name"],
        storage=cluster["storage"],
        app_secret=cluster["app_secret"],
        parameters=cluster["parameters"],
        store=Store(**raw["store"]),
        schedule_name=raw["schedule"]["name"],
        schedule_cron=raw["schedule"]["cron"],
        sql_secret=raw["sql_secret"],
        tenants=tenants,
        app=App(**{**raw["app"], "create": tuple(raw["app"]["create"])}),
        backup_method=backup_method,
    )


def script(name: str) -> str:
    """A data script's text."""
    return (resources.files(__package__) / "sql" / f"{name}.sql").read_text(encoding="utf-8")
