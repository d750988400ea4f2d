"""Building a site on a running lab, in the order of a real installation, each stage reported as it happens."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from drillbook_lab.api.errors import Object
from drillbook_lab.errors import LabError
from drillbook_lab.home import write_json
from drillbook_lab.operator import phases
from drillbook_lab.operator.context import Operator, holds
from drillbook_lab.site import app_manifests, deploy, manifests
from drillbook_lab.site.manifests import Credentials
from drillbook_lab.site.site import LabSite, Tenant, script

log = logging.getLogger(__name__)

_GLANCE_SECONDS = 0.05
_PATIENCE_SECONDS = 300.0
_PATIENCE_A_MEGABYTE = 1.0  # gigabytes are loaded and backed up by one core
_WRITES_PER_SECOND = 3


class Progress:
    """Writes one line a stage's beginning and end; `lab up` reads them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._began = time.monotonic()

    @asynccontextmanager
    async def stage(self, title: str) -> AsyncIterator[Callable[[str], None]]:
        """One stage; the yielded function takes a note for its last line."""
        notes: list[str] = []
        began = time.monotonic()
        self._write(title, "started", "", 0.0)
        try:
            yield notes.append
        except BaseException as fault:
            self._write(title, "failed", str(fault), time.monotonic() - began)
            raise
        self._write(title, "done", ", ".join(notes), time.monotonic() - began)

    def _write(self, title: str, state: str, note: str, seconds: float) -> None:
        line = {
            "stage": title,
            "state": state,
            "note": note,
            "seconds": round(seconds, 2),
            "at": round(time.monotonic() - self._began, 2),
        }
        with self._path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")


@dataclass
class Seeding:
    """One site being built."""

    operator: Operator
    site: LabSite
    credentials: Credentials
    endpoint: str
    data_mb: float
    progress: Progress
    recover: bool = False

    def install(self) -> None:
        """Everything that is an object: namespaces, RBAC, Secrets, store, cluster, schedule."""
        registry, image = self.operator.registry, f"postgresql:{self.operator.settings.pg_version}"
        for obj in [
            *manifests.namespaces(self.site),
            *deploy.manifests(self.site),
            *([*deploy.recovery(self.site), *deploy.changes(self.site)] if self.recover else []),
            *manifests.secret_objects(self.site, self.credentials),
            *([] if self.site.in_tree else [manifests.object_store(self.site, self.endpoint)]),
            manifests.cluster(self.site, image),
            manifests.scheduled_backup(self.site),
        ]:
            registry.create(obj)

    def application(self) -> list[Object]:
        """The objects of the first tenant's application. Nobody waits for it: it is ready soon after they are made."""
        owner = self.site.tenants[0].owner
        return [app_manifests.secret(self.site, self.credentials.tenants[owner]), *app_manifests.declared(self.site)]

    async def cluster_is_healthy(self) -> Object:
        """Wait for the cluster's own word."""

        def healthy(cluster: Object) -> bool:
            phase = (cluster.get("status") or {}).get("phase")
            if phase == phases.UNRECOVERABLE:
                raise LabError("the lab's cluster can't be made", str(cluster["status"].get("phaseReason")))
            return bool(phase == phases.HEALTHY)

        return await self._wait("Cluster", self.site.cluster, healthy)

    async def fill(self) -> int:
        """The tenants' databases and rows; how many bytes they take."""
        for tenant in self.site.tenants[1:]:
            await self._psql("postgres", f'CREATE DATABASE "{tenant.database}" OWNER "{tenant.owner}";')
        # A batch load: what a crash would lose here, the lab would make again.
        await asyncio.gather(*(self._fill_tenant(tenant) for tenant in self.site.tenants))
        total = "SELECT sum(pg_database_size(datname)) FROM pg_database WHERE NOT datistemplate;"
        return int(await self._psql("postgres", total))

    async def _fill_tenant(self, tenant: Tenant) -> None:
        rows = max(200, int(self.data_mb * tenant.share * tenant.rows_per_mb))
        limit = f'ALTER ROLE "{tenant.owner}" CONNECTION LIMIT {tenant.connection_limit};\n'
        head = f"{limit}SET synchronous_commit = off;\n\\set owner {tenant.owner}\n\\set rows {rows}\n"
        await self._psql(tenant.database, head + script(tenant.data) + "RESET ROLE;\nVACUUM (ANALYZE);\n")

    async def admit_drills(self) -> None:
        """The very scripts that a site is reported to run, for the drill role and for what it may read."""
        await self._psql("postgres", deploy.sql("drillbook-role.sql"))
        grants = deploy.sql("drillbook-tenant.sql")
        for tenant in self.site.tenants:
            parts = [f"\\set schema {schema}\n\\set owner {tenant.owner}\n{grants}\n" for schema in tenant.schemas]
            await self._psql(tenant.database, "".join(parts))

    async def archive(self) -> None:
        """Switch archiving on; from here on no segment is recycled unarchived."""
        patch = manifests.archiving(self.site, self.endpoint)
        self.operator.registry.patch("Cluster", self.site.source_namespace, self.site.cluster, patch)
        deadline = time.monotonic() + self._patience
        while "wal_archive" not in await self._psql("postgres", "SHOW archive_command;"):
            if time.monotonic() > deadline:
                raise LabError("the lab's cluster does not archive", "archive_command is unchanged")
            await asyncio.sleep(_GLANCE_SECONDS)
        if not self.site.in_tree:
            await self._take_sidecar()

    async def _take_sidecar(self) -> None:
        """Recreate the pod: a plugin that comes later is not in it yet, and CloudNativePG rolls it out, too."""
        namespace, name = self.site.source_namespace, f"{self.site.cluster}-1"
        before = self.operator.registry.get("Pod", namespace, name)["metadata"]["uid"]
        self.operator.registry.delete("Pod", namespace, name)
        deadline = time.monotonic() + self._patience
        while (pod := self.operator.find("Pod", namespace, name)) is None or (
            pod["metadata"]["uid"] == before or not holds(pod, "Ready")
        ):
            if time.monotonic() > deadline:
                raise LabError(f"Pod {name} is not there in time", json.dumps(pod and pod.get("status"))[:400])
            await asyncio.sleep(_GLANCE_SECONDS)

    async def first_backup(self) -> str:
        """Ask for a base backup and wait for its end; its id."""
        name = f"{self.site.cluster}-{datetime.now(UTC):%Y%m%d%H%M%S}"
        self.operator.registry.create(manifests.backup(self.site, name))

        def ended(backup: Object) -> bool:
            status = backup.get("status") or {}
            if status.get("phase") == "failed":
                raise LabError("the lab's first backup failed", str(status.get("error")))
            return status.get("phase") == "completed"

        done = await self._wait("Backup", name, ended)
        return str(done["status"]["backupId"])

    async def replicas(self, instances: int) -> str:
        """Scale the cluster up and wait for its own word; copies of the loaded data cost less than replaying the load."""
        patch = {"spec": {"instances": instances}}
        self.operator.registry.patch("Cluster", self.site.source_namespace, self.site.cluster, patch)

        def all_there(cluster: Object) -> bool:
            status = cluster.get("status") or {}
            return bool(status.get("phase") == phases.HEALTHY and status.get("readyInstances") == instances)

        done = await self._wait("Cluster", self.site.cluster, all_there)
        return ", ".join(done["status"]["instanceNames"])

    async def archiving_works(self) -> None:
        """Wait until a segment has really arrived."""
        await self._wait("Cluster", self.site.cluster, lambda cluster: holds(cluster, "ContinuousArchiving"))

    def writer_config(self, path: Path) -> None:
        """What the writer process is reported; its passwords are why the file is private."""
        # The service follows the primary; its address is there as soon as something relays it.
        service = self.operator.registry.get("Service", self.site.source_namespace, f"{self.site.cluster}-rw")
        pod = self.operator.registry.get("Pod", self.site.source_namespace, f"{self.site.cluster}-1")
        address = service["spec"].get("clusterIP") or pod["status"]["podIP"]
        tenants = [
            {
                "name": tenant.database,
                "per_second": _WRITES_PER_SECOND,
                "writes": tenant.writes,
                "connection": {
                    "host": address,
                    "port": 5432,
                    "dbname": tenant.database,
                    "user": tenant.owner,
                    "password": self.credentials.tenants[tenant.owner],
                    "sslmode": "prefer",  # a server that was built without TLS is served as well
                    "application_name": f"{tenant.database}-backend",
                },
                **({"rests_while": str(path.with_name("app-away"))} if tenant is self.site.tenants[0] else {}),
            }
            for tenant in self.site.tenants
        ]
        write_json(path, {"tenants": tenants})

    @property
    def _patience(self) -> float:
        return _PATIENCE_SECONDS + _PATIENCE_A_MEGABYTE * self.data_mb

    async def _wait(self, kind: str, name: str, until: Callable[[Object], bool]) -> Object:
        deadline = time.monotonic() + self._patience
        while True:
            found = self.operator.registry.get(kind, self.site.source_namespace, name)
            if until(found):
                return found
            if time.monotonic() > deadline:
                raise LabError(f"{kind} {name} is not there in time", json.dumps(found.get("status"))[:400])
            await asyncio.sleep(_GLANCE_SECONDS)

    async def _psql(self, database: str, text: str) -> str:
        return await psql(self.operator, self.site, database, text)


async def archive_now(operator: Operator, site: LabSite) -> str:
    """Have a commit of this moment in the archive: a lab that comes from an image has been idle for as long as that is old."""
    switch = "SELECT txid_current(); SELECT pg_walfile_name(pg_switch_wal());"
    segment = (await psql(operator, site, "postgres", switch)).splitlines()[-1]
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while await psql(operator, site, "postgres", "SELECT last_archived_wal FROM pg_stat_archiver;") < segment:
        if time.monotonic() > deadline:
            raise LabError("the lab's cluster does not archive", f"{segment} is not archived")
        await asyncio.sleep(_GLANCE_SECONDS)
    return segment


async def psql(operator: Operator, site: LabSite, database: str, text: str) -> str:
    """What psql in the primary's pod answers to the statements. LabError: what it says."""
    worker = operator.kubelet.worker(site.source_namespace, f"{site.cluster}-1")
    argv = ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database]
    process = await worker.exec(argv, stdin=True)
    output, errors = await process.communicate(text.encode())
    if process.returncode != 0:
        said = errors.decode(errors="replace").strip()[-600:] or f"psql: exit status {process.returncode}"
        raise LabError(f"the site's SQL failed in database {database}", said)
    return output.decode().strip()
