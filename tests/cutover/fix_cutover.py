"""A lab whose cluster is replaced: runs that pass their gates, and a look at what they have left."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from drillbook import kube as k8s
from drillbook.engine import Run, open_run
from drillbook.engine.step import Step
from drillbook.errors import ConfirmationRequired
from drillbook.manifests.replacement import MADE_BY
from drillbook.model import parse_instant, show_instant
from drillbook.postgres.client import Address, Database
from drillbook.steps.cutover.fence import FENCED
from drillbook.steps.cutover.repoint import HANDED_OVER
from drillbook.swap.names import RetainedDatabase
from drillbook_lab.faults.store import bucket
from drillbook_lab.home import LabHome

if TYPE_CHECKING:
    from fix_drills import DrillLab

T = TypeVar("T")


def _week_before(at: datetime) -> datetime:
    return at - timedelta(days=7)


class CutLab:
    """A running lab, and the runs made in it in this process."""

    def __init__(self, lab: DrillLab) -> None:
        self.lab, self.admin, self.site = lab, lab.admin, lab.site
        self.namespace, self.name = lab.site.cluster.namespace, lab.site.cluster.name

    def profile(self, name: str, **changes: Any) -> Path:
        """The lab's profile with the administrator's rights, for runs that replace its cluster."""
        kubernetes = {"kubeconfig": str(self.lab.home / "kubeconfig"), "context": "lab-admin"}
        return self.lab.profile_with(name, kubernetes=kubernetes, **changes)

    def run(
        self, procedure: Callable[[Run], T], *, runbook: str = "recover-full-restore", **changes: Any
    ) -> tuple[Run, T]:
        """Do a procedure; at a gate its process ends, and another one goes on with the phrase."""
        os.environ |= {
            "DRILLBOOK_OUTPUTS": self.lab.own_outputs(),
            "DRILLBOOK_NOTEBOOK": str(self.lab.home / "none.ipynb"),
        }
        site = str(self.profile("cutover", **changes))
        run = open_run(runbook, site=site, mode="apply")
        while True:
            try:
                return run, procedure(run)
            except ConfirmationRequired:
                phrase = run.journal.events()[-1]["phrase"]
            except Exception as error:
                # A step that failed returns; what uses its result afterwards says nothing of why.
                for event in run.journal.events():
                    if event.get("error"):
                        error.add_note(f"step {event['n']} had failed: {event['error']}")
                raise
            finally:
                run.release()
            run = open_run(runbook, site=site, mode="apply", resume=run.run_id, confirm=phrase)

    def sql(self, cluster: str, statement: str, database: str = "invoices") -> str:
        """A statement on a cluster's first instance as its superuser; unaligned text."""
        argv = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-c", statement]
        done = self.admin.exec(self.namespace, f"{cluster}-1", "postgres", argv, timeout_seconds=60)
        assert done.exit_code == 0, done.error_text
        return done.text.strip()

    def a_week_passes(self) -> None:
        """All that is on the cluster and in the bucket with a date is a week old now, and what a week removes is gone.

        Nobody waits a week: instead of the clock, the past is moved. The Lease has a holder that is gone, notes and
        comments bear older dates, retention has left the newest base backup of each server only.
        """
        name, namespace = f"drillbook-{self.name}", self.site.drillbook_namespace
        stale = {
            "holderIdentity": "a run that is gone",
            "renewTime": f"{_week_before(datetime.now(UTC)):%Y-%m-%dT%H:%M:%S.%fZ}",
        }
        self.admin.patch(k8s.LEASE, namespace, name, {"spec": stale})
        for note in self.admin.list(k8s.CONFIG_MAP, self.namespace, labels=MADE_BY):
            if HANDED_OVER in (note.get("data") or {}):
                handed = json.loads(note["data"][HANDED_OVER])
                handed["at"] = show_instant(_week_before(parse_instant(handed["at"])))
                self.admin.patch(
                    k8s.CONFIG_MAP,
                    self.namespace,
                    note["metadata"]["name"],
                    {"data": {HANDED_OVER: json.dumps(handed)}},
                )
        for cluster in self.admin.list(k8s.CLUSTER, self.namespace):
            if FENCED not in (cluster["metadata"].get("annotations") or {}):
                self._age_comments(cluster["metadata"]["name"])
        store = bucket(LabHome(self.lab.home))
        found: dict[str, set[str]] = {}
        pages = store.client.get_paginator("list_objects_v2").paginate(Bucket=store.name)
        keys = [item["Key"] for page in pages for item in page.get("Contents") or ()]
        for server, _, rest in (key.partition("/base/") for key in keys if "/base/" in key):
            found.setdefault(server, set()).add(rest.partition("/")[0])
        removed = [f"{server}/base/{backup}/" for server, backups in found.items() for backup in sorted(backups)[:-1]]
        assert removed, "there was no older base backup that retention could have removed"
        for key in [key for key in keys if key.startswith(tuple(removed))]:
            store.client.delete_object(Bucket=store.name, Key=key)

    def refresh_credentials(self) -> None:
        """Drillbook's own role has another password, as after a rotation: the Secret says so."""
        secret, password = self.site.sql.secret, "of-the-next-rotation"
        self.sql(self.name, f"alter role \"{self.site.sql.role}\" password '{password}'", "postgres")
        self.admin.patch(k8s.SECRET, secret.namespace, secret.name, {"stringData": {"password": password}})

    def _age_comments(self, cluster: str) -> None:
        rows = self.sql(
            cluster, "select datname, shobj_description(oid, 'pg_database') from pg_database", "postgres"
        ).splitlines()
        for database, _, comment in (row.partition("|") for row in rows):
            if RetainedDatabase.read(comment) is not None:
                said = json.loads(comment)
                said["drillbook"] |= {
                    key: show_instant(_week_before(parse_instant(said["drillbook"][key])))
                    for key in ("at", "expires_at")
                }
                quoted = json.dumps(said).replace("'", "''")
                self.sql(cluster, f"comment on database \"{database}\" is '{quoted}'", "postgres")

    def address(self) -> str:
        """What the application is given its database."""
        app = self.site.tenants[0].application
        assert app is not None
        found = self.admin.get(k8s.DEPLOYMENT, app.namespace, app.deployment) or {}
        env = found["spec"]["template"]["spec"]["containers"][0]["env"]
        (entry,) = [entry for entry in env if entry["name"] == app.address_variable]
        if "value" in entry:
            return str(entry["value"])
        place = entry["valueFrom"]["secretKeyRef"]
        held = self.admin.get(k8s.SECRET, app.namespace, place["name"]) or {}
        return base64.b64decode(held["data"][place["key"]]).decode()

    def move_address_to_a_secret(self) -> None:
        """As most applications have it: the Deployment refers to a Secret that holds the address."""
        app, address = self.site.tenants[0].application, self.address()
        assert app is not None
        meta = {"name": "api-db", "namespace": app.namespace}
        self.admin.create({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": {"url": address}})
        found = self.admin.get(k8s.DEPLOYMENT, app.namespace, app.deployment) or {}
        first, *others = found["spec"]["template"]["spec"]["containers"]
        reference = {"name": app.address_variable, "valueFrom": {"secretKeyRef": {"name": "api-db", "key": "url"}}}
        env = [reference if entry["name"] == app.address_variable else entry for entry in first["env"]]
        patch = {"spec": {"template": {"spec": {"containers": [first | {"env": env}, *others]}}}}
        self.admin.patch(k8s.DEPLOYMENT, app.namespace, app.deployment, patch)

    def own_login(self, cluster: str) -> str:
        """The database that the application's own password opens; PostgresError if the server lets it not in."""
        tenant = self.site.tenants[0]
        assert tenant.app_login is not None
        password = self.password(tenant.app_login.namespace, tenant.app_login.name)
        with (
            self.admin.forward(self.namespace, f"{cluster}-1", 5432) as forward,
            Database.connect(
                Address(forward.host, forward.port), user=tenant.app_role, password=password, dbname=tenant.database
            ) as db,
        ):
            ((name,),) = db.ask_text("select current_database()")
        return str(name)

    def generated_secret(self) -> None:
        """The owner's password where CloudNativePG keeps one that it has drawn: in a Secret that dies with the Cluster."""
        owner = self.admin.get(k8s.CLUSTER, self.namespace, self.name) or {}
        mine = self.admin.get(k8s.SECRET, self.namespace, owner["spec"]["bootstrap"]["initdb"]["secret"]["name"]) or {}
        reference = {
            "apiVersion": owner["apiVersion"],
            "kind": "Cluster",
            "name": self.name,
            "uid": owner["metadata"]["uid"],
        }
        meta = {"name": f"{self.name}-app", "namespace": self.namespace, "ownerReferences": [reference]}
        self.admin.create(
            {"apiVersion": "v1", "kind": "Secret", "type": mine["type"], "metadata": meta, "data": mine["data"]}
        )

    def tenants_without_login(self) -> list[dict[str, Any]]:
        """The profile's tenants, none of which names the application's own password."""
        return [
            tenant.model_dump(mode="json", exclude={"app_login"}, exclude_defaults=True) for tenant in self.site.tenants
        ]

    def schedules(self) -> dict[str, tuple[str, bool]]:
        """The ScheduledBackups: their Cluster, and whether they are suspended."""
        found = self.admin.list(k8s.SCHEDULED_BACKUP, self.namespace)
        return {
            item["metadata"]["name"]: (item["spec"]["cluster"]["name"], bool(item["spec"].get("suspend")))
            for item in found
        }

    def password(self, namespace: str, name: str) -> str:
        """The password in a Secret."""
        found = self.admin.get(k8s.SECRET, namespace, name) or {}
        return base64.b64decode(found["data"]["password"]).decode()


def confirmed(run: Run, title: str, *steps: Step[Any]) -> list[Any]:
    """A destructive section: planned, confirmed, done."""
    run.confirm(run.plan(title, *steps))
    return [run.do(step) for step in steps]


def open_promises(run: Run) -> list[str]:
    """What a run has promised to undo and not undone."""
    return [item.id for item in run.context.recorder.promises()]
