"""kill -9 of the daemon and of its parts at any moment; then `lab up`, and everything is as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fix_clusters import SmallCluster
from fix_clusters import namespace as made_namespace
from fix_lab import BATCH, CNPG, CORE, RunningLab, condition, until
from kubernetes import client, config
from kubernetes.stream import stream

from drillbook_lab.faults import catalogue as faults
from drillbook_lab.home import LabHome
from drillbook_lab.node import supervise
from drillbook_lab.node.processes import processes_under


class Killable:
    """A lab of this file's own, its daemon a child of the test."""

    def __init__(self, root: Path) -> None:
        self.home = LabHome(root / "h")
        self.daemon: subprocess.Popen[bytes] | None = None
        self.stages: dict[str, str] = {}

    def start(self) -> None:
        argv = supervise.daemon_command(self.home, "first", 1.0, "--job-retry-seconds", "0.1")
        self.daemon = supervise.start(self.home, argv, detached=True)

    def up(self) -> RunningLab:
        self.start()
        self.stages = {}

        def heard(line: dict[str, Any]) -> None:
            self.stages[line["stage"]] = line["note"]

        supervise.follow(self.home, self.daemon, heard)
        return RunningLab(self.home)

    def kill(self) -> None:
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait()

    def down(self) -> None:
        supervise.down(self.home)
        if self.daemon is not None:
            self.daemon.wait(30)

    def processes(self) -> dict[str, int | None]:
        return {entry["what"]: entry["pid"] for entry in faults.control(self.home, {"op": "status"})["processes"]}

    def trust(self) -> tuple[str, int, str]:
        """What a client may have kept: kubeconfig, the pod's address, the store's."""
        lab = RunningLab(self.home)
        state = lab.state
        pod = lab.get(f"{CORE}/{state['namespace']}/pods/{state['cluster']}-1")
        return self.home.kubeconfig.read_text(), pod["status"]["podIP"], state["endpoint"]


@pytest.fixture(scope="module")
def killable() -> Iterator[Killable]:
    """Up once; each test leaves it up."""
    with tempfile.TemporaryDirectory(prefix="lk-", dir="/tmp") as root:
        lab = Killable(Path(root))
        try:
            lab.up()
            yield lab
        finally:
            lab.down()
        assert not processes_under([lab.home.root])


def healthy(lab: RunningLab) -> bool:
    return lab.source()["status"]["phase"] == "Cluster in healthy state" and condition(lab.source(), "Ready") == "True"


def segment(lab: RunningLab) -> str:
    return str(lab.drill_sql("SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver")[0][0])


def archives(lab: RunningLab) -> None:
    """A further segment reaches the store."""
    before = segment(lab)
    with config.new_client_from_config(str(lab.home.kubeconfig), context="lab-admin") as connection:
        opened = stream(
            client.CoreV1Api(connection).connect_get_namespaced_pod_exec,
            f"{lab.state['cluster']}-1",
            lab.state["namespace"],
            command=["psql", "-c", "CREATE TABLE IF NOT EXISTS switched(); SELECT pg_switch_wal()"],
            stdout=True,
            stderr=True,
            stdin=False,
            tty=False,
            _preload_content=False,
        )
        opened.run_forever(timeout=60)
        assert opened.returncode == 0, opened.read_stderr()
        opened.sock.shutdown()
    until(lambda: segment(lab) > before)


def backup(lab: RunningLab, name: str) -> str:
    state = lab.state
    lab.create(
        f"{CNPG}/{state['namespace']}/backups",
        {
            "apiVersion": "postgresql.cnpg.io/v1",
            "kind": "Backup",
            "metadata": {"name": name, "namespace": state["namespace"]},
            "spec": {
                "cluster": {"name": state["cluster"]},
                "method": "plugin",
                "pluginConfiguration": {"name": "barman-cloud.cloudnative-pg.io"},
            },
        },
    )
    return f"{CNPG}/{state['namespace']}/backups/{name}"


def recovering(lab: RunningLab, name: str, target: dict[str, Any] | None = None) -> dict[str, Any]:
    """A copy of the source, next to it."""
    source = lab.source()
    store = next(plugin["parameters"] for plugin in source["spec"]["plugins"] if plugin.get("isWALArchiver"))
    external = {"plugin": {"name": "barman-cloud.cloudnative-pg.io", "parameters": store}, "name": "origin"}
    recovery = {"source": "origin", **({"recoveryTarget": target} if target else {})}
    return {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Cluster",
        "metadata": {"name": name, "namespace": lab.state["namespace"]},
        "spec": {
            "instances": 1,
            "imageName": source["spec"]["imageName"],
            "storage": {"size": "1Gi"},
            "bootstrap": {"recovery": recovery},
            "externalClusters": [external],
        },
    }


def phase(obj: Any) -> str:
    return str((obj.get("status") or {}).get("phase") or "")


def events_about(lab: RunningLab, name: str) -> dict[str, str]:
    found = lab.get(f"{CORE}/{lab.state['namespace']}/events")["items"]
    return {event["reason"]: event["message"] for event in found if event["involvedObject"]["name"] == name}


@pytest.mark.soak
def test_idle(killable: Killable) -> None:
    """The same objects, addresses and credentials; the server recovers from its volume; archiving and writer go on."""
    lab = RunningLab(killable.home)
    kept = killable.trust()
    system = lab.source()["status"]["systemID"]
    backups = {entry["metadata"]["uid"] for entry in lab.get(f"{CNPG}/{lab.state['namespace']}/backups")["items"]}
    began = lab.drill_sql("SELECT pg_postmaster_start_time()")
    version = int(lab.get(f"{CORE}/default/configmaps")["metadata"]["resourceVersion"])
    # As soon as it is killed: what it leaves is still on its way out.
    killable.kill()
    lab = killable.up()
    assert killable.trust() == kept
    assert healthy(lab)
    assert lab.source()["status"]["systemID"] == system
    assert backups <= {
        entry["metadata"]["uid"] for entry in lab.get(f"{CNPG}/{lab.state['namespace']}/backups")["items"]
    }
    assert lab.drill_sql("SELECT pg_postmaster_start_time()") != began
    pod = lab.get(f"{CORE}/{lab.state['namespace']}/pods/{lab.state['cluster']}-1")
    (container,) = pod["status"]["containerStatuses"]
    assert (container["restartCount"], container["lastState"]["terminated"]["exitCode"]) == (1, 137)
    assert f"{lab.state['cluster']}-1" in killable.stages["What was left"]
    _, gone = lab.call("GET", f"{CORE}/default/configmaps?watch=1&timeoutSeconds=1&resourceVersion={version - 20}")
    assert (gone["type"], gone["object"]["code"]) == ("ERROR", 410)
    assert killable.processes()["writer"]
    archives(lab)


@pytest.mark.soak
def test_during_a_backup(killable: Killable) -> None:
    """It fails in the operator's words, and the next one completes and can be restored from."""
    lab = RunningLab(killable.home)
    path = backup(lab, "cut-off")
    until(lambda: phase(lab.get(path)) == "started")
    killable.kill()
    lab = killable.up()
    cut = until(lambda: (found := lab.get(path)) and phase(found) == "failed" and found)
    pod = f"{lab.state['cluster']}-1"
    assert cut["status"]["error"] == f"instance manager was restarted during backup on pod {pod}"
    told = events_about(lab, "cut-off")
    assert told["InstanceManagerRestarted"] == f"Backup failed: instance manager was restarted on pod {pod}"
    assert "cut-off" in killable.stages["What was left"]
    path = backup(lab, "after-it")
    until(lambda: phase(lab.get(path)) == "completed")


@pytest.mark.soak
def test_during_a_recovery_job(killable: Killable) -> None:
    """The Job's pod has failed; the Job tries again, and the copy becomes healthy."""
    lab = RunningLab(killable.home)
    namespace = lab.state["namespace"]
    lab.create(f"{CNPG}/{namespace}/clusters", recovering(lab, "copy"))

    def job_pods() -> list[Any]:
        pods = lab.get(f"{CORE}/{namespace}/pods")["items"]
        return [pod for pod in pods if pod["metadata"]["name"].startswith("copy-1-full-recovery")]

    until(lambda: any(phase(pod) == "Running" for pod in job_pods()))
    cut = job_pods()[0]["metadata"]["name"]
    killable.kill()
    lab = killable.up()
    until(lambda: phase(lab.get(f"{CNPG}/{namespace}/clusters/copy")) == "Cluster in healthy state")
    assert cut in killable.stages["What was left"]
    assert healthy(lab)
    lab.delete(f"{CNPG}/{namespace}/clusters/copy")
    until(lambda: lab.find(f"{CORE}/{namespace}/persistentvolumeclaims/copy-1") is None)


@pytest.mark.soak
@pytest.mark.parametrize("what", ["object store", "writer"])
def test_a_part_of_the_daemons(killable: Killable, what: str) -> None:
    """It comes back by itself; what the store held is there."""
    lab = RunningLab(killable.home)
    pid = killable.processes()[what]
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: killable.processes()[what] not in (None, pid))
    archives(lab)
    path = backup(lab, f"after-the-{what.replace(' ', '-')}")
    until(lambda: phase(lab.get(path)) == "completed")
    catalogue = lab.get(f"/apis/barmancloud.cnpg.io/v1/namespaces/{lab.state['namespace']}/objectstores")["items"]
    assert catalogue


@pytest.mark.soak
@pytest.mark.parametrize("what", ["agent", "postmaster"])
def test_a_part_of_the_pods(killable: Killable, what: str) -> None:
    """The container ends and is started again; the server recovers."""
    lab = RunningLab(killable.home)
    path = f"{CORE}/{lab.state['namespace']}/pods/{lab.state['cluster']}-1"
    count = lab.get(path)["status"]["containerStatuses"][0]["restartCount"]
    agent = killable.processes()[f"pod {lab.state['namespace']}/{lab.state['cluster']}-1"]
    assert agent is not None
    pid = agent
    if what == "postmaster":
        (volume,) = (killable.home.path("volumes")).glob(f"*_{lab.state['cluster']}-1_*")
        pid = int((volume / "pgdata" / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    until(lambda: lab.get(path)["status"]["containerStatuses"][0]["restartCount"] == count + 1)
    until(lambda: condition(lab.get(path), "Ready") == "True" and healthy(lab))
    archives(lab)


@pytest.mark.soak
def test_while_replicas_join(killable: Killable) -> None:
    """The second is cut off while it copies, the third while it starts; both stream in the end, and leave again."""
    lab = RunningLab(killable.home)
    namespace, name = lab.state["namespace"], lab.state["cluster"]
    path = f"{CNPG}/{namespace}/clusters/{name}"

    def pods() -> dict[str, Any]:
        return {pod["metadata"]["name"]: pod for pod in lab.get(f"{CORE}/{namespace}/pods")["items"]}

    def copies() -> bool:
        return any(pod.startswith(f"{name}-2-join") and phase(found) == "Running" for pod, found in pods().items())

    def complete(instances: int) -> bool:
        return healthy(lab) and lab.source()["status"].get("readyInstances") == instances

    moments = {2: copies, 3: lambda: f"{name}-3" in pods()}
    for instances, reached in moments.items():
        lab.patch(path, {"spec": {"instances": instances}})
        until(reached)
        killable.kill()
        lab = killable.up()
        until(lambda instances=instances: complete(instances))  # type: ignore[misc]
    assert lab.source()["status"]["instanceNames"] == [f"{name}-{number}" for number in (1, 2, 3)]
    assert lab.source()["status"]["currentPrimary"] == f"{name}-1"
    lab.drill_sql("CREATE TABLE IF NOT EXISTS streamed (n int)")
    lab.drill_sql("INSERT INTO streamed VALUES (1)")
    password = lab.secret(lab.state["drillbook_namespace"], "drillbook-sql")["password"]
    query = "SELECT pg_is_in_recovery(), to_regclass('streamed') IS NOT NULL"
    for number in (2, 3):
        pod = pods()[f"{name}-{number}"]
        until(lambda pod=pod: lab.sql("drillbook", password, "drillbook", query, pod=pod) == [(True, True)])  # type: ignore[misc]
    archives(lab)
    lab.patch(path, {"spec": {"instances": 1}})
    until(lambda: complete(1) and set(pods()) == {f"{name}-1"})


@pytest.mark.soak
def test_in_the_middle_of_what_people_do(killable: Killable) -> None:
    """Fenced stays fenced, asleep asleep and paused paused; what was leaving goes, what can't work ends, a fault lasts."""
    lab = RunningLab(killable.home)
    here = made_namespace(lab, "states")
    fenced, asleep, leaving = (SmallCluster(lab, here, name).create() for name in ("fenced", "asleep", "leaving"))
    asleep.app("CREATE TABLE kept AS SELECT g FROM generate_series(1, 10) AS g")
    fenced.annotate(fencedInstances='["*"]')
    asleep.annotate(hibernation="on")
    until(lambda: not fenced.is_ready() and asleep.pod() is None)
    never = f"{CNPG}/{lab.state['namespace']}/clusters/never"
    lab.create(
        never.rpartition("/")[0], recovering(lab, "never", {"backupID": "20200101T000000", "targetImmediate": True})
    )
    job = f"{BATCH}/{lab.state['namespace']}/jobs/never-1-full-recovery"
    until(lambda: ((lab.find(job) or {}).get("status") or {}).get("failed", 0) >= 1)
    faults.inject(killable.home, "store-slow")
    lab.delete(leaving.path)
    killable.kill()
    lab = killable.up()
    until(lambda: lab.find(leaving.path) is None and not of_cluster(lab, here, "leaving"))
    assert faults.in_force(killable.home) == ["store-slow"]
    faults.restore(killable.home, "store-slow")
    until(lambda: phase(lab.get(never)) == "Cluster is unrecoverable and needs manual intervention")
    assert lab.get(job)["status"]["failed"] == 7, "no attempt was forgotten"
    until(lambda: phase(fenced.pod() or {}) == "Running")
    until(lambda: fenced.status.get("readyInstances") == 0)
    assert not fenced.answers() and fenced.status["phase"] == "Cluster in healthy state"
    assert asleep.pod() is None and condition(asleep.object, "cnpg.io/hibernation") == "True"
    fenced.annotate(fencedInstances=None)
    asleep.annotate(hibernation="off")
    until(lambda: all(cluster.is_healthy() and cluster.answers() for cluster in (fenced, asleep)))
    assert asleep.app("SELECT count(*) FROM kept") == [(10,)]
    lab.delete(never)
    lab.delete(f"{CORE}/{here}")
    until(lambda: lab.find(f"{CORE}/{here}") is None)


def of_cluster(lab: RunningLab, where: str, name: str) -> list[str]:
    """Pods and claims of a Cluster that are still there."""
    kinds = ("pods", "persistentvolumeclaims")
    found = [entry for kind in kinds for entry in lab.get(f"{CORE}/{where}/{kind}")["items"]]
    return [entry["metadata"]["name"] for entry in found if entry["metadata"]["name"].startswith(f"{name}-")]


@pytest.mark.soak
def test_an_orderly_end_is_no_end(killable: Killable) -> None:
    """SIGTERM, as a machine that goes down sends it: the lab is resumed, and nothing was running in the meantime."""
    kept = killable.trust()
    assert killable.daemon is not None
    killable.daemon.terminate()
    assert killable.daemon.wait(60) == 0
    assert not processes_under([killable.home.root])
    lab = killable.up()
    assert killable.trust() == kept
    assert healthy(lab)
    archives(lab)


@pytest.mark.soak
@pytest.mark.parametrize("stage", ["PostgreSQL cluster", "Tenants and their data", "First base backup"])
def test_while_it_comes_up(stage: str) -> None:
    """A lab that never was up is begun again, and nothing of the first attempt is left."""
    with tempfile.TemporaryDirectory(prefix="lk-", dir="/tmp") as root:
        lab = Killable(Path(root))
        try:
            lab.start()
            until(lambda: lab.home.progress.exists() and f'"{stage}"' in lab.home.progress.read_text())
            lab.kill()
            running = lab.up()
            assert healthy(running)
            assert "What was left" not in lab.stages
            archives(running)
        finally:
            lab.down()
        assert not processes_under([lab.home.root])
        assert not list(Path(root).iterdir())
