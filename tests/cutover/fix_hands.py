"""Other controllers in the lab: what acts as Argo CD holds the application, and an autoscaler scales it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import yaml
from fix_drills import ROOT, Drill, until

from drillbook import kube as k8s
from drillbook.engine import open_run
from drillbook.kube.reconcilers import TRACKING
from drillbook.steps.preflight.pausing import DeclaredStateAgrees, pause, resume_reconcilers
from drillbook_lab.home import LabHome

if TYPE_CHECKING:
    from fix_cutover import CutLab

SYNCS = {"prune": True, "selfHeal": True}


class Hands:
    """Both act from the beginning; a run may pause the Application, by the right of deploy/argocd/."""

    def __init__(self, lab: CutLab) -> None:
        self.lab, app = lab, lab.site.tenants[0].application
        assert app is not None
        self.app = app
        lab.lab._lab("reconciler", "on")
        until(lambda: TRACKING in (self.deployment["metadata"].get("annotations") or {}), "the app carries its mark")
        self._grant()
        self.replicas = self.deployment["spec"]["replicas"]
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": app.deployment}
        spec = {"scaleTargetRef": target, "minReplicas": self.replicas, "maxReplicas": self.replicas + 1}
        meta = {"name": app.deployment, "namespace": app.namespace}
        lab.admin.create(
            {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": meta, "spec": spec}
        )
        self._folder = LabHome(lab.lab.home).declared / app.deployment
        self._path, self._cluster = self._folder / "deployment.yaml", self._folder / "cluster.yaml"

    def _grant(self) -> None:
        text = (ROOT / "deploy" / "argocd" / "application.yaml").read_text()
        names = {
            "ARGOCD_NAMESPACE": "argocd",
            "APPLICATION": self.app.deployment,
            "DRILLBOOK_NAMESPACE": self.lab.site.drillbook_namespace,
        }
        for name, value in names.items():
            text = text.replace(f"${{{name}}}", value)
        for item in yaml.safe_load_all(text):
            path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/argocd/{item['kind'].lower()}s"
            self.lab.admin._transport.call("POST", path, what="grant", body=item)

    def declare_cluster(self) -> None:
        """The Cluster is declared as it is, and held to that like the application."""
        found, place = self.cluster, {"name": self.lab.name, "namespace": self.lab.namespace}
        declared = {"apiVersion": found["apiVersion"], "kind": "Cluster", "metadata": place, "spec": found["spec"]}
        self._cluster.write_text(yaml.safe_dump(declared))
        until(lambda: TRACKING in (self.cluster["metadata"].get("annotations") or {}), "the Cluster carries its mark")

    def declare_as_told(self, run: Drill) -> None:
        """The Cluster is declared as the run's patch for Git says."""
        (*_, told) = yaml.safe_load_all((run.folder / "logs" / "git.patch.yaml").read_text())
        declared = yaml.safe_load(self._cluster.read_text())
        declared["spec"] |= told["spec"]
        self._cluster.write_text(yaml.safe_dump(declared))

    def sync_again(self) -> None:
        """Somebody lets it sync by itself again, and it does."""
        self.lab.admin.patch(
            k8s.APPLICATION, "argocd", self.app.deployment, {"spec": {"syncPolicy": {"automated": SYNCS}}}
        )
        until(
            lambda: self.status("operationState", "syncResult", "revision") == self.status("sync", "revision"),
            "it syncs",
        )

    def rest(self) -> None:
        """The reconciler is off again."""
        self.lab.lab._lab("reconciler", "off")

    @property
    def deployment(self) -> dict[str, Any]:
        return self.lab.admin.get(k8s.DEPLOYMENT, self.app.namespace, self.app.deployment) or {}

    @property
    def cluster(self) -> dict[str, Any]:
        return self.lab.admin.get(k8s.CLUSTER, self.lab.namespace, self.lab.name) or {}

    def status(self, *path: str) -> Any:
        """A value of the Application's status."""
        found: Any = self.application.get("status")
        for key in path:
            found = (found or {}).get(key)
        return found

    @property
    def application(self) -> dict[str, Any]:
        return self.lab.admin.get(k8s.APPLICATION, "argocd", self.app.deployment) or {}

    @contextmanager
    def git_follows(self, old: str, new: str) -> Iterator[None]:
        """Somebody makes the change in Git as soon as the application has the new address."""
        over = threading.Event()

        def follow() -> None:
            while new not in self.lab.address() and not over.wait(0.2):
                pass
            self.declare(old, new)

        thread = threading.Thread(target=follow)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def declare(self, old: str, new: str) -> None:
        self._path.write_text(self._path.read_text().replace(old, new))

    def went_on(self, run: Drill) -> None:
        """It was paused by the run and syncs by itself again; as many replicas as before."""
        paused = [event["id"] for event in run.of("obligation") if event["kind"] == "Application"]
        assert paused == [f"Application/argocd/{self.app.deployment}:spec.syncPolicy.automated"]
        assert run.check(f"declared state: argocd/{self.app.deployment}")["verdict"] == "VERIFIED"
        self.as_before()

    def stays_paused(self, run: Drill) -> None:
        """It was paused by the run, and that is all that keeps the run from being proven; how to go on is said."""
        paused = f"Application/argocd/{self.app.deployment}:spec.syncPolicy.automated"
        unmet = [
            check["name"]
            for check in run.of("check")
            if check["required"] and check["verdict"] in ("FAILED", "UNPROVEN")
        ]
        assert unmet == [f"declared state: argocd/{self.app.deployment}"]
        assert {event["id"] for event in run.of("obligation")} - {event["id"] for event in run.of("settled")} == {
            paused
        }
        (left,) = [event["value"] for event in run.of("fact") if event["name"] == "cleanup_failed"]
        assert "it stays paused" in left and "is made again by recovery" in left
        assert "automated" not in self.application["spec"]["syncPolicy"]

    def as_before(self) -> None:
        """It syncs by itself; as many replicas as before."""
        assert self.application["spec"]["syncPolicy"]["automated"] == SYNCS
        assert self.deployment["spec"]["replicas"] == self.replicas

    def verdict_while_git_says_otherwise(self) -> str:
        """Of the last look, while what is declared would bring another state back; it stays paused then."""
        os.environ["DRILLBOOK_OUTPUTS"] = self.lab.lab.own_outputs()
        site = str(self.lab.profile("impatient", limits={"step": "2s"}))
        run = open_run("recover-full-restore", site=site, mode="apply")
        try:
            pause(run.context, [self.deployment])
            until(lambda: "automated" not in self.application["spec"]["syncPolicy"], "it is paused")
            self.declare(f"replicas: {self.replicas}", f"replicas: {self.replicas + 1}")
            until(lambda: self.status("sync", "status") == "OutOfSync", "they differ")
            (check,) = run.do(DeclaredStateAgrees()).checks
            assert "automated" not in self.application["spec"]["syncPolicy"]
            resume_reconcilers(run.context)
        finally:
            run.release()
        return str(check.verdict)
