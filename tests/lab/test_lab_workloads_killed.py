"""kill -9 of the daemon in the middle of a rollout; then `lab up`, and it is finished, the reconciler and all."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import pytest
from fix_clusters import SmallCluster, namespace
from fix_lab import CORE, RunningLab, until
from fix_workloads import Workload, http
from test_lab_killed import Killable
from test_lab_pooler import Pool

from drillbook_lab.faults import catalogue as faults
from drillbook_lab.node.processes import processes_under
from drillbook_lab.operator import pooler_config

APP = "/apis/argoproj.io/v1alpha1/namespaces/argocd/applications/synergyflow-backend"


def backend(lab: RunningLab) -> Workload:
    return Workload(lab, "synergyflow", "synergyflow-backend")


@pytest.mark.soak
def test_a_rollout_and_the_reconciler_go_on_after_a_kill() -> None:
    with tempfile.TemporaryDirectory(prefix="lw-", dir="/tmp") as root:
        killable = Killable(Path(root))
        try:
            lab = killable.up()
            app = backend(lab)
            until(lambda: app.settled(3))
            app.kubectl("set", "env", f"deploy/{app.name}", "SPRING_DATASOURCE_HIKARI_MAXIMUMPOOLSIZE=5")
            until(lambda: len(app.sets()) == 2 and app.sets()[-1]["spec"]["replicas"] > 0)
            killable.kill()
            after = backend(killable.up())
            until(lambda: after.settled(3) and after.reason("Progressing") == "NewReplicaSetAvailable")
            assert {after.env(pod)["SPRING_DATASOURCE_HIKARI_MAXIMUMPOOLSIZE"] for pod in after.pods()} == {"5"}
            service = after.lab.get(f"{CORE}/{after.namespace}/services/{after.name}")
            url = f"http://{service['spec']['clusterIP']}:8080/api/v1/health"
            until(lambda: http("GET", url)[1]["components"]["db"]["details"]["pool"]["max"] == 5)
            faults.control(killable.home, {"op": "reconciler", "run": True})
            until(lambda: (after.lab.get(APP).get("status") or {}).get("sync", {}).get("status") == "Synced")
            until(lambda: after.settled(3))
            killable.kill()
            last = backend(killable.up())
            last.scale(0)  # it is held to what is declared, by whom nobody has switched on again
            until(lambda: last.object["spec"]["replicas"] == 3)
            until(lambda: last.settled(3))
        finally:
            killable.down()
        assert not processes_under([killable.home.root])


@pytest.mark.soak
@pytest.mark.skipif(pooler_config.binary() is None, reason=pooler_config.NO_BINARY)
def test_a_paused_pooler_is_paused_after_a_kill_and_lets_go_when_it_is_told() -> None:
    with tempfile.TemporaryDirectory(prefix="lp-", dir="/tmp") as root:
        killable = Killable(Path(root))
        try:
            lab = killable.up()
            small = SmallCluster(lab, namespace(lab, "small"), "small").create()
            pool = Pool(small, "held").create(poolMode="session")
            until(pool.ready)
            until(pool.answers)
            pool.pause(True)
            until(lambda: pool.status["phase"] == "paused")
            killable.kill()
            after = Pool(SmallCluster(killable.up(), small.namespace, small.name), pool.name)
            until(after.ready)
            assert after.status["phase"] == "paused"
            answers: list[bool] = []
            waiting = threading.Thread(target=lambda: answers.append(after.answers(connect_timeout=120)))
            waiting.start()
            until(after.is_held)
            assert not answers, "a client of a paused pooler waits"
            after.pause(False)
            waiting.join(120)
            assert answers == [True]
            assert after.status["phase"] == "active"
        finally:
            killable.down()
        assert not processes_under([killable.home.root])
