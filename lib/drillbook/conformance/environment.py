"""The ground that probes rely on: a namespace, and small things of their own that are removed again.

Everything carries one label, so that what a killed survey left can be found and removed by hand as well.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from drillbook import kube as k8s
from drillbook.archive import ObjectStore, S3Store
from drillbook.archive.location import BARMAN_PLUGIN
from drillbook.conformance.probe import CantAsk, Differs
from drillbook.errors import KubernetesError, RunbookError
from drillbook.postgres.client import Address, Database, by_parameters_only

Object = dict[str, Any]

LABEL = "drillbook.io/probe"
HEALTHY = "Cluster in healthy state"
_CNPG = "postgresql.cnpg.io/v1"

# In this order they go: a Cluster before the ObjectStore that it reads, or its reconciliation stalls.
_REMOVED = (
    k8s.SCHEDULED_BACKUP,
    k8s.POOLER,
    k8s.BACKUP,
    k8s.CLUSTER,
    k8s.OBJECT_STORE,
    k8s.SERVICE,
    k8s.SECRET,
    k8s.CONFIG_MAP,
    k8s.LEASE,
)


@dataclass(frozen=True)
class Options:
    """Where and how large the probes' things are. ``object_store`` is an ObjectStore in the namespace, "" for none.

    Its credentials must write: probes archive into folders of their own, named ``probe-…``, and leave them there.
    ``endpoint_url`` is the store as it is seen from here, if that is another address. Seconds bound one wait.
    """

    namespace: str
    object_store: str = ""
    endpoint_url: str = ""
    storage_size: str = "1Gi"
    storage_class: str = ""
    image: str = ""
    wait_seconds: float = 600.0


@dataclass
class ProbeEnvironment:
    """A namespace of one cluster, and what the probes have made in it."""

    kube: k8s.Kube
    options: Options
    say: Callable[[str], None] = lambda text: None
    suffix: str = field(default_factory=lambda: secrets.token_hex(3))
    _failures: dict[str, str] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        """Where everything is made."""
        return self.options.namespace

    def name(self, what: str) -> str:
        """A name of this survey's own."""
        return f"probe-{what}-{self.suffix}"

    # -- objects -----------------------------------------------------------------------------

    def metadata(self, name: str, **more: Any) -> Object:
        """Metadata of an object of the survey's."""
        return {"name": name, "namespace": self.namespace, "labels": {LABEL: self.suffix}, **more}

    def cluster_object(self, name: str, **spec: Any) -> Object:
        """A small Cluster; ``spec`` adds to it or replaces parts of it."""
        storage: Object = {"size": self.options.storage_size}
        if self.options.storage_class:
            storage["storageClass"] = self.options.storage_class
        image = {"imageName": self.options.image} if self.options.image else {}
        whole = {"instances": 1, "storage": storage} | image | spec
        return {"apiVersion": _CNPG, "kind": "Cluster", "metadata": self.metadata(name), "spec": whole}

    def archived_by(self, server_name: str = "") -> list[Object]:
        """``spec.plugins`` with the WAL archiver that writes to the given ObjectStore."""
        parameters = {"barmanObjectName": self.store_name}
        if server_name:
            parameters["serverName"] = server_name
        return [{"name": BARMAN_PLUGIN, "isWALArchiver": True, "parameters": parameters}]

    def recovering(self, name: str, source: str, *, server_name: str = "", store: str = "", **recovery: Any) -> Object:
        """A Cluster that recovers from the folder ``source``; without ``server_name`` the parameter is left out."""
        parameters = {"barmanObjectName": store or self.store_name}
        if server_name:
            parameters["serverName"] = server_name
        return self.cluster_object(
            name,
            bootstrap={"recovery": {"source": source, **recovery}},
            externalClusters=[{"name": source, "plugin": {"name": BARMAN_PLUGIN, "parameters": parameters}}],
        )

    def backup_object(self, name: str, cluster: str, **spec: Any) -> Object:
        """A Backup by the plugin, unless ``spec`` says otherwise."""
        by_plugin = {"method": "plugin", "pluginConfiguration": {"name": BARMAN_PLUGIN}}
        whole = {"cluster": {"name": cluster}, **(spec if "method" in spec else by_plugin | spec)}
        whole = {key: value for key, value in whole.items() if value is not None}
        return {"apiVersion": _CNPG, "kind": "Backup", "metadata": self.metadata(name), "spec": whole}

    def make(self, obj: Object) -> Object:
        """Create an object; it goes with the survey."""
        self.say(f"makes {obj['kind']} {obj['metadata']['name']}")
        return self.kube.create(obj)

    def refusal(self, obj: Object) -> str:
        """The API server's words when it judges an object; `Differs` if it would take it."""
        try:
            self.kube.create(obj, dry_run=True)
        except KubernetesError as error:
            return _refused(error)
        raise Differs(f"the {obj['kind']} was accepted")

    def refusal_of_patch(self, obj: Object, merge: Object) -> str:
        """The API server's words when it judges a change; `Differs` if it would take it."""
        kind, meta = k8s.kind_of(obj), obj["metadata"]
        try:
            self.kube.patch(kind, meta["namespace"], meta["name"], merge, dry_run=True)
        except KubernetesError as error:
            return _refused(error)
        raise Differs("the change was accepted")

    def accepted(self, obj: Object) -> Object:
        """An object as the API server would store it; `Differs` with its words if it would not."""
        try:
            return self.kube.create(obj, dry_run=True)
        except KubernetesError as error:
            raise Differs(f"refused: {_refused(error)}") from error

    def now(self, obj: Object) -> Object:
        """An object as it is now; `Differs` if it is gone."""
        meta = obj["metadata"]
        found = self.kube.get(k8s.kind_of(obj), meta["namespace"], meta["name"])
        if found is None:
            raise Differs(f"{obj['kind']} {meta['name']} is gone")
        return found

    def wait(self, obj: Object, until: Callable[[Object], bool], what: str, *, seconds: float = 0.0) -> Object:
        """Wait until an object is so."""
        meta = obj["metadata"]
        found = self.kube.wait(
            k8s.kind_of(obj),
            meta["namespace"],
            meta["name"],
            lambda one: one is not None and until(one),
            timeout_seconds=seconds or self.options.wait_seconds,
            what=what,
        )
        assert found is not None  # noqa: S101  (until() was true of it)
        return found

    def until(self, what: str, look: Callable[[], Any], *, seconds: float = 0.0) -> Any:
        """Look again and again until there is something to see; `Differs` when the time is over."""
        limit = seconds or self.options.wait_seconds
        deadline = time.monotonic() + limit
        while True:
            found = look()
            if found:
                return found
            if time.monotonic() > deadline:
                raise Differs(f"not seen within {limit:.0f} s: {what}")
            time.sleep(0.5)

    def events(self, obj: Object) -> list[str]:
        """The reasons of an object's events, oldest first."""
        uid = obj["metadata"]["uid"]
        found = [
            event
            for event in self.kube.list(k8s.EVENT, self.namespace)
            if (event.get("involvedObject") or {}).get("uid") == uid
        ]
        found.sort(key=lambda event: str(event.get("firstTimestamp") or event["metadata"].get("creationTimestamp")))
        return [str(event.get("reason")) for event in found]

    def remove(self, obj: Object) -> None:
        """Remove one object and wait until it is gone."""
        meta, kind = obj["metadata"], k8s.kind_of(obj)
        found = self.kube.get(kind, meta["namespace"], meta["name"])
        if found is None:
            return
        self.kube.delete(kind, meta["namespace"], meta["name"], uid=found["metadata"]["uid"])
        self.kube.wait(
            kind,
            meta["namespace"],
            meta["name"],
            lambda one: one is None,
            timeout_seconds=self.options.wait_seconds,
            what=f"the removal of {kind.where(meta['namespace'], meta['name'])}",
        )

    def remove_all(self) -> list[str]:
        """Remove everything of this survey, in an order that works; what could not be removed is named."""
        left = []
        for kind in _REMOVED:
            try:
                for obj in self.kube.list(kind, self.namespace, labels=f"{LABEL}={self.suffix}"):
                    self.remove(obj)
            except RunbookError as error:
                if not (isinstance(error, KubernetesError) and error.status in (403, 404)):
                    left.append(error.what)
        return left

    # -- what many probes share ----------------------------------------------------------------

    @property
    def store_name(self) -> str:
        """The ObjectStore that may be written to."""
        if not self.options.object_store:
            raise CantAsk("no ObjectStore was named that the probes may write to")
        return self.options.object_store

    def once(self, what: str, make: Callable[[], Object]) -> Object:
        """Make a shared thing; when that fails, every later probe that wants it can't be asked, for that reason."""
        if what in self._failures:
            raise CantAsk(self._failures[what])
        try:
            return make()
        except (RunbookError, Differs) as error:
            self._failures[what] = f"{what}: {error}"
            raise

    @cached_property
    def cluster(self) -> Object:
        """A healthy Cluster of one instance, archiving where there is an ObjectStore."""
        plugins = {"plugins": self.archived_by()} if self.options.object_store else {}
        wanted = self.cluster_object(self.name("a"), enableSuperuserAccess=True, **plugins)
        return self.once("the probes' Cluster", lambda: self.healthy(self.make(wanted)))

    def healthy(self, cluster: Object) -> Object:
        """A Cluster, once it says that it is healthy."""

        def is_healthy(found: Object) -> bool:
            return bool((found.get("status") or {}).get("phase") == HEALTHY)

        return self.wait(cluster, is_healthy, f"Cluster {cluster['metadata']['name']} to be healthy")

    @cached_property
    def backup(self) -> Object:
        """A completed Backup of that Cluster."""
        self.store_name  # noqa: B018  (raises where there isn't one)
        wanted = self.backup_object(self.name("b"), self.cluster["metadata"]["name"])
        return self.once("the probes' Backup", lambda: self.ended(self.make(wanted)))

    def ended(self, backup: Object) -> Object:
        """A Backup, once it has come to its end."""
        return self.wait(
            backup,
            lambda one: (one.get("status") or {}).get("phase") in ("completed", "failed"),
            f"Backup {backup['metadata']['name']} to end",
        )

    def sql(self, statement: str, *, cluster: str = "", dbname: str = "postgres") -> str:
        """A statement's answer as psql prints it, by exec in the primary's pod: one word a column, one line a row."""
        name = cluster or self.cluster["metadata"]["name"]
        found = self.kube.get(k8s.CLUSTER, self.namespace, name) or {}
        pod = (found.get("status") or {}).get("currentPrimary") or f"{name}-1"
        argv = by_parameters_only(["psql", "-X", "-v", "ON_ERROR_STOP=1", "-d", dbname, "-Atc", statement])
        answer = self.kube.exec(self.namespace, pod, "postgres", argv, timeout_seconds=60)
        if answer.exit_code:
            raise Differs(f"psql in {pod} ended with {answer.exit_code}: {answer.error_text.strip()[:200]}")
        return answer.text.strip()

    def session(self, cluster: str, pod: str, secret: str) -> tuple[k8s.Forward, Database]:
        """A port-forward to a pod and a session through it as the user of a Secret; the caller closes both."""
        entries = self.kube.secret(self.namespace, secret)
        forward = self.kube.forward(self.namespace, pod, 5432)
        forward.__enter__()
        address = Address(forward.host, forward.port, why=forward.why)
        try:
            database = Database.connect(
                address,
                user=entries["username"],
                password=entries["password"],
                dbname=entries.get("dbname", cluster),
                read_only=True,
            )
        except RunbookError:
            forward.__exit__(None, None, None)
            raise
        return forward, database

    @cached_property
    def bucket(self) -> ObjectStore:
        """The ObjectStore's bucket, read with the credentials that it names."""
        store = self.kube.get(k8s.OBJECT_STORE, self.namespace, self.store_name)
        if store is None:
            raise CantAsk(f"there is no ObjectStore {self.store_name} in {self.namespace}")
        configuration = store["spec"]["configuration"]
        keys = configuration.get("s3Credentials") or {}
        if not {"accessKeyId", "secretAccessKey"} <= set(keys):
            raise CantAsk("the ObjectStore names no access key to read the bucket with")

        def entry(field_name: str) -> str:
            reference = keys[field_name]
            return self.kube.secret(self.namespace, reference["name"])[reference["key"]]

        return S3Store.open(
            configuration["destinationPath"],
            endpoint_url=self.options.endpoint_url or configuration.get("endpointURL", ""),
            access_key_id=entry("accessKeyId"),
            secret_access_key=entry("secretAccessKey"),
        )


def _refused(error: KubernetesError) -> str:
    """A refusal's words. Not being allowed to ask, or no answer, is no judgement of the object."""
    if error.status in (400, 422):
        return " ".join(error.what.split())
    if error.status == 403 and "admission webhook" in error.what:
        return " ".join(error.what.split())
    raise error
