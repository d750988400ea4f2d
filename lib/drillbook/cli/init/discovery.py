"""What a cluster says of itself, read with the person's own kubeconfig: nothing is changed, and no Secret's value is kept."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from drillbook import kube as k8s
from drillbook.archive.location import SourceArchive, source_archive
from drillbook.cli.init.applications import ApplicationFound, endpoints, find
from drillbook.errors import KubernetesError, NotReady, ParameterError, PreconditionError, RunbookError
from drillbook.kube import connection_env
from drillbook.manifests.recovery import RUN_LABEL, volumes
from drillbook.profile import Site
from drillbook.steps.preflight.readiness import HEALTHY, asleep_faults, replica_faults
from drillbook.swap.superuser import MAINTENANCE, Superuser

Object = dict[str, Any]

DRILL_DATABASE = "drillbook"
# A digest reads the whole table, twice: so much of each, and so many.
LARGEST_TABLE_BYTES = 256 * 1024 * 1024
MOST_TABLES = 8
_BASIC_AUTH = "kubernetes.io/basic-auth"
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


@dataclass(frozen=True)
class TableFound:
    """A table or view with rows; ``name`` is quoted like in SQL where it has to be, ``size_bytes`` without its indexes."""

    schema: str
    name: str
    owner: str
    size_bytes: int
    comparable: bool
    pending_events: bool


@dataclass(frozen=True)
class DatabaseFound:
    """A tenant as far as the cluster shows it. ``login`` is the Secret of the source's namespace with its owner's password."""

    name: str
    owner: str
    size_bytes: int
    tables: tuple[TableFound, ...]
    login: str = ""
    applications: tuple[ApplicationFound, ...] = ()

    @property
    def digest_tables(self) -> tuple[TableFound, ...]:
        """The tables to compare: the largest first, each small enough to be read in seconds."""
        fitting = [table for table in self.tables if table.comparable and table.size_bytes < LARGEST_TABLE_BYTES]
        return tuple(fitting[:MOST_TABLES])

    @property
    def events(self) -> TableFound | None:
        """The register of events to be sent, where there is one."""
        return next((table for table in self.tables if table.pending_events), None)

    @property
    def schemas(self) -> dict[str, tuple[str, ...]]:
        """The schemas to be read, with those who make tables there: of what the profile names, and ``public``.

        A question that somebody adds without a schema asks for a table in ``public``.
        """
        wanted = {table.schema for table in (*self.digest_tables, *([self.events] if self.events else []))}
        wanted |= {table.schema for table in self.tables} & {"public"}
        return {
            schema: tuple(sorted({table.owner for table in self.tables if table.schema == schema}))
            for schema in sorted(wanted)
        }

    @property
    def unread_schemas(self) -> tuple[str, ...]:
        """Schemas with tables that nothing in the profile asks for."""
        return tuple(sorted({table.schema for table in self.tables} - set(self.schemas)))


@dataclass(frozen=True)
class Found:
    """All that was found; ``notes`` are sentences on what could not be read, each with what to check."""

    cluster: Object
    kube_system_uid: str
    archive: SourceArchive
    databases: tuple[DatabaseFound, ...]
    storage_class: str  # the source's
    copy_class: str  # another one for copies, "" where the source's will do
    entry: Object = field(default_factory=dict)
    schedules: tuple[str, ...] = ()
    archive_timeout_seconds: int = 0
    same_name: bool = False  # another namespace has a Cluster of this name
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        databases = ", ".join(one.name for one in self.databases) or "none"
        return f"Cluster {self.namespace}/{self.name} with databases: {databases}"

    @property
    def namespace(self) -> str:
        """The source's namespace."""
        return str(self.cluster["metadata"]["namespace"])

    @property
    def name(self) -> str:
        """The Cluster's name."""
        return str(self.cluster["metadata"]["name"])


def discover(kube: k8s.Kube, wanted: str = "") -> Found:
    """The Cluster ``wanted`` (NAMESPACE/NAME; "" is the only one there is) and all that a profile says of it.

    ParameterError: which one, or why it can't be drilled, every reason at once. KubernetesError, PostgresError:
    something that is indispensable could not be read. Changes nothing.
    """
    cluster, same_name = _choose(kube, wanted)
    namespace, name = cluster["metadata"]["namespace"], cluster["metadata"]["name"]
    status = cluster.get("status", {})
    faults = replica_faults(cluster) + asleep_faults(cluster)
    if status.get("phase") != HEALTHY:
        faults.append(f"its phase is {status.get('phase') or 'not known'!r}, not {HEALTHY!r}")
    if not status.get("currentPrimary"):
        faults.append("it names no primary (status.currentPrimary)")
    try:
        archive = source_archive(kube, _provisional(namespace, name), cluster)
    except PreconditionError as error:
        faults += error.faults if isinstance(error, NotReady) else [f"{error.what}. {error.todo}"]
    if faults:
        raise _refused(namespace, name, faults)
    notes: list[str] = []
    system = kube.get(k8s.NAMESPACE, "", "kube-system") or {"metadata": {"uid": ""}}
    superuser = Superuser(kube, namespace, status["currentPrimary"])
    databases = [
        DatabaseFound(row["name"], row["owner"], int(row["size_bytes"] or 0), _tables(superuser, row["name"]))
        for row in superuser.ask(MAINTENANCE, "databases")
        if not row["is_template"] and row["name"] not in (MAINTENANCE, DRILL_DATABASE)
    ]
    if not databases:
        raise _refused(namespace, name, ["it has no database besides postgres: there is nothing to prove"])
    applications = _applications(kube, cluster, {one.name: one.owner for one in databases}, notes)
    timeout = superuser.ask(MAINTENANCE, "settings", names=["archive_timeout"])
    storage_class, copy_class = _classes(kube, cluster, notes)
    return Found(
        cluster=cluster,
        kube_system_uid=str(system["metadata"]["uid"]),
        archive=archive,
        databases=tuple(
            DatabaseFound(
                one.name,
                one.owner,
                one.size_bytes,
                one.tables,
                _login(kube, cluster, one, notes),
                tuple(app for app in applications if app.database == one.name),
            )
            for one in databases
        ),
        storage_class=storage_class,
        copy_class=copy_class,
        entry=kube.cluster_entry,
        schedules=tuple(_schedules(kube, namespace, name)),
        archive_timeout_seconds=int(timeout[0]["setting"]) if timeout else 0,
        same_name=same_name,
        notes=tuple(notes),
    )


def _refused(namespace: str, name: str, faults: list[str]) -> ParameterError:
    return ParameterError(
        faults,
        where=f"Cluster {namespace}/{name}",
        todo="Correct what is named, or choose another Cluster with --cluster.",
    )


def _choose(kube: k8s.Kube, wanted: str) -> tuple[Object, bool]:
    """The Cluster, and whether another namespace has one of its name."""
    namespace, slash, name = wanted.partition("/")
    if wanted and not (namespace and slash and name and "/" not in name):
        raise ParameterError([f"--cluster {wanted} is not NAMESPACE/NAME"], where="drillbook init")
    try:
        listed = kube.list(k8s.CLUSTER)
    except KubernetesError as error:
        if error.status != 403:
            raise
        if not wanted:
            said = "these credentials may not list the Clusters of all namespaces"
            todo = (
                "Name the Cluster with --cluster NAMESPACE/NAME, or use your own credentials: --context, --kubeconfig."
            )
            raise ParameterError([said], where="drillbook init", todo=todo) from error
        found = kube.get(k8s.CLUSTER, namespace, name)
        listed = [found] if found else []
    # A drill's own copy is no source.
    all_there = [item for item in listed if RUN_LABEL not in (item["metadata"].get("labels") or {})]
    names = sorted(f"{item['metadata']['namespace']}/{item['metadata']['name']}" for item in all_there)
    fitting = [
        item
        for item in all_there
        if not wanted or (item["metadata"]["namespace"], item["metadata"]["name"]) == (namespace, name)
    ]
    if len(fitting) != 1:
        said = (
            f"there is no Cluster {wanted}"
            if wanted
            else f"there are {len(names)} Clusters"
            if names
            else "there is no Cluster"
        )
        raise ParameterError(
            [said + (f": {', '.join(names)}" if names else " that these credentials can see")],
            where="drillbook init",
            todo="Name one with --cluster NAMESPACE/NAME, or use another kubeconfig or context.",
        )
    (chosen,) = fitting
    same = [item for item in all_there if item["metadata"]["name"] == chosen["metadata"]["name"]]
    return chosen, len(same) > 1


def _provisional(namespace: str, name: str) -> Site:
    """So much of a profile as is needed to ask where the Cluster archives."""
    tenants = [{"database": "unknown", "app_role": "unknown"}]
    # The drill namespace has to be another one, whatever the source's is called.
    other = {"drill_namespace": f"{namespace[:60]}-a", "drillbook_namespace": f"{namespace[:60]}-b"}
    source = {"namespace": namespace, "name": name}
    return Site.model_validate({"name": "init", "environment": "init", "cluster": source, "tenants": tenants, **other})


def _tables(superuser: Superuser, database: str) -> tuple[TableFound, ...]:
    return tuple(TableFound(**row) for row in superuser.ask(database, "init_tables"))


def _permitted(read: Callable[[], list[Object]], notes: list[str], what: str) -> list[Object]:
    """What may not be read is noted, not guessed."""
    try:
        return read()
    except KubernetesError as error:
        if error.status not in (403, 404):
            raise
        notes.append(f"{what} could not be read with these credentials ({error.status}): check it yourself.")
        return []


def _applications(
    kube: k8s.Kube, cluster: Object, databases: dict[str, str], notes: list[str]
) -> list[ApplicationFound]:
    namespace = cluster["metadata"]["namespace"]
    poolers = _permitted(lambda: kube.list(k8s.POOLER, namespace), notes, f"poolers in {namespace}")
    deployments = _permitted(lambda: kube.list(k8s.DEPLOYMENT), notes, "deployments of all namespaces")
    places = endpoints(cluster, poolers)
    cached: dict[tuple[str, str, str], dict[str, str]] = {}

    def lookup_in(home: str) -> connection_env.Lookup:
        def lookup(kind: str, name: str) -> dict[str, str]:
            key = (home, kind, name)
            if key not in cached:
                cached[key] = _entries(kube, home, kind, name)
            return cached[key]

        return lookup

    found = [find(item, places, namespace, databases, lookup_in(item["metadata"]["namespace"])) for item in deployments]
    there = sorted((app for app in found if app is not None), key=lambda app: (app.namespace, app.deployment))
    notes += [
        f"Deployment {app.namespace}/{app.deployment} uses the Service {app.service}, of which database is not known: name it under its tenant."
        for app in there
        if not app.database
    ]
    return there


def _entries(kube: k8s.Kube, namespace: str, kind: str, name: str) -> dict[str, str]:
    """A Secret's or ConfigMap's entries; {} where they may not be read or are not there."""
    try:
        if kind == "Secret":
            return kube.secret(namespace, name)
        return dict((kube.get(k8s.CONFIG_MAP, namespace, name) or {}).get("data") or {})
    except KubernetesError as error:
        if error.status not in (403, 404):
            raise
        return {}


def _login(kube: k8s.Kube, cluster: Object, database: DatabaseFound, notes: list[str]) -> str:
    """The Secret of the source's namespace whose username is the owner's: as the Cluster names it, else any basic-auth one."""
    namespace = cluster["metadata"]["namespace"]
    for name in _secrets_of(cluster, database.owner):
        if _entries(kube, namespace, "Secret", name).get("username") == database.owner:
            return name
    listed = _permitted(
        lambda: kube.list(k8s.SECRET, namespace, fields=f"type={_BASIC_AUTH}"),
        notes,
        f"the Secret with {database.owner}'s password",
    )
    owner = base64.b64encode(database.owner.encode()).decode()
    return next(
        (str(item["metadata"]["name"]) for item in listed if (item.get("data") or {}).get("username") == owner), ""
    )


def _secrets_of(cluster: Object, owner: str) -> Iterator[str]:
    spec = cluster["spec"]
    for role in (spec.get("managed") or {}).get("roles") or []:
        if role["name"] == owner and role.get("passwordSecret"):
            yield str(role["passwordSecret"]["name"])
    for section in (spec.get("bootstrap") or {}).values():
        if isinstance(section, dict) and section.get("secret") and section.get("owner") in (owner, None):
            yield str(section["secret"]["name"])
    yield f"{cluster['metadata']['name']}-app"


def _classes(kube: k8s.Kube, cluster: Object, notes: list[str]) -> tuple[str, str]:
    """The source's storage class, and for copies one that deletes its volumes where the source's keeps them."""
    classes = {
        item["metadata"]["name"]: item
        for item in _permitted(lambda: kube.list(k8s.STORAGE_CLASS), notes, "storage classes")
    }
    default = next(
        (
            name
            for name, item in classes.items()
            if (item["metadata"].get("annotations") or {}).get(_DEFAULT_CLASS) == "true"
        ),
        "",
    )
    namespace, name = cluster["metadata"]["namespace"], cluster["metadata"]["name"]
    used = [one or default for one in volumes(_provisional(namespace, name), cluster["spec"]).values()]
    keeping = [one for one in used if one in classes and not _deletes(classes[one])]
    if not keeping:
        return used[0], ""
    same = classes[keeping[0]].get("provisioner")
    others = sorted(
        (name for name, item in classes.items() if _deletes(item)),
        key=lambda one: (classes[one].get("provisioner") != same, one != default, one),
    )
    if not others:
        notes.append(
            f"StorageClass {keeping[0]} keeps volumes, and no other deletes them: make one, and name it in copy.storage_class."
        )
    return used[0], others[0] if others else ""


def _deletes(storage_class: Object) -> bool:
    return bool(storage_class.get("reclaimPolicy", "Delete") == "Delete")


def _schedules(kube: k8s.Kube, namespace: str, name: str) -> list[str]:
    try:
        items = kube.list(k8s.SCHEDULED_BACKUP, namespace)
    except RunbookError:
        return []  # said in a comment only
    return [
        f"{item['metadata']['name']} ({item['spec']['schedule']})"
        for item in items
        if item["spec"]["cluster"]["name"] == name
    ]
