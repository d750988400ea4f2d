"""What a declared manifest brings up: first what the runbook says, then the cluster is deleted and the manifest applied."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from fix_drills import ROOT, Drill, DrillLab, until

from drillbook import kube as k8s
from drillbook.errors import KubernetesError

NOTEBOOK = ROOT / "runbooks" / "check-git-rebuild.ipynb"
PLUGIN = "barman-cloud.cloudnative-pg.io"
NAME = "orders"
SKIP = {"cnpg.io/skipEmptyWalArchiveCheck": "enabled"}
Manifest = dict[str, Any]


class Orders:
    """A second cluster in the lab, with an archive of its own folders and two rows: one before a base backup, one after."""

    def __init__(self, lab: DrillLab) -> None:
        self.lab, self.space = lab, lab.site.cluster.namespace
        source = lab.admin.get(k8s.CLUSTER, self.space, lab.site.cluster.name) or {}
        self.store = source["spec"]["plugins"][0]["parameters"]["barmanObjectName"]
        self.image = source["spec"]["imageName"]
        self.folders = f"orders-{time.time_ns()}"
        self.apply(self.initdb(self.folder("")))
        until(self.healthy, "the cluster is healthy")
        pin = lab.site.identity.model_dump() | {"system_identifier": self.status()["systemID"]}
        place = {"namespace": self.space, "name": NAME}
        self.profile = lab.profile_with("orders", cluster=place, identity=pin)
        known = lab.site.archive.model_dump(mode="json") | {"object_store": self.store, "server_name": self.folder("")}
        self.of_a_lost_one = lab.profile_with("orders-lost", cluster=place, identity=pin, archive=known)
        self.sql("create table kept (at int); insert into kept values (1)")
        self.back_up()
        self.archived()
        self.between = self.sql("select now() at time zone 'UTC'").replace(" ", "T") + "Z"
        self.sql("insert into kept values (2)")
        self.sql("create table filler (n int)")
        self.archived()

    def folder(self, which: str) -> str:
        return f"{self.folders}{which}"

    # -- manifests -----------------------------------------------------------------------------

    def cluster(self, bootstrap: Manifest, to: str, **annotations: str) -> Manifest:
        writes = {"barmanObjectName": self.store, "serverName": to}
        reads = {"barmanObjectName": self.store, "serverName": self.folder("")}
        return {
            "apiVersion": "postgresql.cnpg.io/v1",
            "kind": "Cluster",
            "metadata": {"name": NAME, "namespace": self.space, "annotations": annotations},
            "spec": {
                "instances": 1,
                "imageName": self.image,
                "storage": {"size": "1Gi"},
                "postgresql": {"parameters": {"archive_timeout": "30s"}},
                "bootstrap": bootstrap,
                "externalClusters": [{"name": "origin", "plugin": {"name": PLUGIN, "parameters": reads}}],
                "plugins": [{"name": PLUGIN, "isWALArchiver": True, "parameters": writes}],
            },
        }

    def initdb(self, to: str, **annotations: str) -> Manifest:
        return self.cluster({"initdb": {"database": "orders", "owner": "orders"}}, to, **annotations)

    def recovery(self, to: str, **target: str) -> Manifest:
        section: Manifest = {"source": "origin", "database": "orders", "owner": "orders"}
        return self.cluster({"recovery": section | ({"recoveryTarget": target} if target else {})}, to)

    # -- the cluster ---------------------------------------------------------------------------

    def said(self, manifest: Manifest, site: Path | None = None) -> Drill:
        path = self.lab.scratch / "declared.yaml"
        path.write_text(yaml.safe_dump_all([{"kind": "Namespace", "metadata": {"name": self.space}}, manifest]))
        return self.lab.run(NOTEBOOK, site=site or self.profile, manifest=str(path))

    def apply(self, manifest: Manifest) -> None:
        self.lab.admin.create(copy.deepcopy(manifest))

    def remove(self) -> None:
        if (found := self.lab.admin.get(k8s.CLUSTER, self.space, NAME)) is not None:
            self.lab.admin.delete(k8s.CLUSTER, self.space, NAME, uid=found["metadata"]["uid"])
        until(lambda: not self.objects(k8s.PVC) and not self.objects(k8s.POD), "nothing of the cluster is left")

    def objects(self, kind: k8s.Kind) -> list[Manifest]:
        return self.lab.admin.list(kind, self.space, labels=f"cnpg.io/cluster={NAME}")

    def status(self) -> Manifest:
        return dict((self.lab.admin.get(k8s.CLUSTER, self.space, NAME) or {}).get("status") or {})

    def healthy(self) -> bool:
        return self.status().get("phase") == "Cluster in healthy state"

    def archiving(self) -> str:
        conditions = self.status().get("conditions") or []
        return str(next((one["status"] for one in conditions if one["type"] == "ContinuousArchiving"), ""))

    def sql(self, statement: str, database: str = "orders") -> str:
        argv = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-c", statement]
        done = self.lab.admin.exec(self.space, f"{NAME}-1", "postgres", argv, timeout_seconds=60)
        assert done.exit_code == 0, done.error_text
        return done.text.strip()

    def rows(self) -> str:
        there = self.sql("select coalesce(to_regclass('kept')::text, '')")
        return self.sql("select string_agg(at::text, ',' order by at) from kept") if there else "none"

    def archived(self) -> None:
        wal = self.sql("select pg_walfile_name(pg_switch_wal())")
        until(lambda: self.sql("select coalesce(last_archived_wal, '') from pg_stat_archiver") >= wal, "archived")

    def back_up(self) -> None:
        name = f"orders-{time.time_ns()}"
        spec = {"cluster": {"name": NAME}, "method": "plugin", "pluginConfiguration": {"name": PLUGIN}}
        meta = {"name": name, "namespace": self.space}
        made = self.lab.admin.create(
            {"apiVersion": "postgresql.cnpg.io/v1", "kind": "Backup", "metadata": meta, "spec": spec}
        )
        found = until(lambda: self._ended(name), "the backup ends")
        assert found == "completed"
        self.lab.admin.delete(k8s.BACKUP, self.space, name, uid=made["metadata"]["uid"])

    def _ended(self, name: str) -> str:
        phase = ((self.lab.admin.get(k8s.BACKUP, self.space, name) or {}).get("status") or {}).get("phase", "")
        return str(phase) if phase in ("completed", "failed") else ""

    # -- what comes up -------------------------------------------------------------------------

    def comes_up(self, manifest: Manifest) -> tuple[str, str]:
        """What it is in the end (its rows, or how it is refused), and whether its WAL is archived."""
        try:
            self.apply(manifest)
        except KubernetesError as error:
            return f"{error.status}", ""
        if not self._has_job():
            return "no job", ""
        until(lambda: self.healthy() or self._failed(), "it is healthy, or its Job has failed")
        if not self.healthy():
            return "job failed", ""
        with suppress(KubernetesError):
            self.sql("create table if not exists more (n int); select pg_switch_wal()")
        until(self.archiving, "an attempt to archive was made")
        return self.rows(), self.archiving()

    def _has_job(self) -> bool:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            if self.objects(k8s.JOB) or self.healthy():
                return True
            time.sleep(0.1)
        return False

    def _failed(self) -> bool:
        return any((job.get("status") or {}).get("failed") for job in self.objects(k8s.JOB))


@pytest.fixture(scope="module")
def orders(drill_lab: DrillLab) -> Iterator[Orders]:
    made = Orders(drill_lab)
    yield made
    made.remove()


def outcome(run: Drill) -> str:
    return str(run.record["facts"].get("answer", run.said)).partition(". ")[0]


@pytest.mark.long
def test_i17_a_manifest_of_the_day_of_birth_brings_back_an_empty_cluster_that_archives_nothing(orders: Orders) -> None:
    """The commonest of all: `initdb`, as it was declared when the cluster was made."""
    manifest = orders.initdb(orders.folder(""))
    run = orders.said(manifest)
    assert (run.code, outcome(run)) == (1, "EMPTY"), run.said
    assert "Expected empty archive" in run.record["facts"]["answer"]
    assert run.check("its archiving")["verdict"] == "FAILED" and run.created == []
    plan = orders.lab.run(NOTEBOOK, mode="plan")
    assert plan.code == 0 and "EMPTY" in plan.record["facts"]["answer"], "without a file: the Cluster as it stands now"


@pytest.mark.long
@pytest.mark.soak
def test_i17_what_is_said_is_what_comes_up(orders: Orders) -> None:
    """Nine manifests: each is judged while the cluster lives, then created in its place."""
    now, gone = orders.folder(""), orders.recovery(orders.folder("-g"))
    gone["spec"]["externalClusters"][0]["plugin"]["parameters"]["barmanObjectName"] = "nowhere"
    nameless = orders.recovery(orders.folder("-n"))
    nameless["spec"]["externalClusters"] = []
    cases = {
        "right": (orders.recovery(orders.folder("-2")), "RIGHT", ("1,2", "True")),
        "old target": (orders.recovery(orders.folder("-3"), targetTime=orders.between), "STALE", ("1", "True")),
        "initdb, fresh": (orders.initdb(orders.folder("-4")), "EMPTY", ("none", "True")),
        "initdb, used": (orders.initdb(now), "EMPTY", ("none", "False")),
        "left in place": (orders.recovery(now), "REFUSED", ("job failed", "")),
        "no ObjectStore": (gone, "REFUSED", ("no job", "")),
        "no external cluster": (nameless, "REFUSED", ("422", "")),
        "too late a target": (
            orders.recovery(orders.folder("-5"), targetTime="2999-01-01T00:00:00Z"),
            "REFUSED",
            ("job failed", ""),
        ),
        # The last: it spoils the folder.
        "initdb, the check skipped": (
            orders.initdb(now, **SKIP),
            "EMPTY, AND IT MIXES TWO HISTORIES",
            ("none", "True"),
        ),
    }
    runs = {name: orders.said(manifest) for name, (manifest, _, _) in cases.items()}
    assert {name: outcome(run) for name, run in runs.items()} == {name: case[1] for name, case in cases.items()}
    assert {name: run.code for name, run in runs.items()} == {name: 0 if name == "right" else 1 for name in cases}
    assert " of work: " in runs["old target"].record["facts"]["answer"], "what is lost is counted"
    orders.remove()
    with orders.lab.recovering():  # of a Cluster that is gone, what a run may have kept is asked for
        lost = orders.said(cases["right"][0], orders.of_a_lost_one)
    assert (lost.code, outcome(lost)) == (0, "RIGHT"), "the same is said when the Cluster is gone already"
    seen = {}
    for name, (manifest, _, _) in cases.items():
        orders.remove()
        seen[name] = orders.comes_up(manifest)
    assert seen == {name: case[2] for name, case in cases.items()}
