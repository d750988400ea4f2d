"""What `drillbook schedule` writes, on the lab: each class runs with its own account, and the next smaller one is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fix_drills import ROOT, DrillLab

from drillbook_lab.api.kubeconfig import write_kubeconfig
from drillbook_lab.home import LabHome
from drillbook_lab.view import Client

pytestmark = pytest.mark.long
RBAC = "/apis/rbac.authorization.k8s.io/v1"


class Cluster:
    """The rendered objects, applied to the lab; and a container of theirs, run as its account."""

    def __init__(self, lab: DrillLab, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        self.name = str(LabHome(lab.home).state()["profile"])  # the lab's roles bear the name of its site
        self.client = Client(LabHome(lab.home))
        self.made: list[str] = []
        self.objects: list[dict[str, Any]] = []

    def profile(self, account: str) -> Path:
        """The profile that a pod of this account has."""
        admin = yaml.safe_load((self.lab.home / "kubeconfig").read_text())["clusters"][0]["cluster"]
        home = f"/api/v1/namespaces/{self.lab.site.drillbook_namespace}/serviceaccounts/{account}/token"
        token = self.client.post(home, {"kind": "TokenRequest", "spec": {"audiences": []}})["status"]["token"]
        write_kubeconfig(path := self.folder / f"{account}.kubeconfig", admin["server"], "", {account: token}, account)
        written = yaml.safe_load(path.read_text())
        written["clusters"][0]["cluster"] = admin
        path.write_text(yaml.safe_dump(written))
        return self.lab.profile_with(
            account, name=self.name, kubernetes={"kubeconfig": str(path), "context": account}, schedules=SCHEDULES
        )

    def apply(self, to: Path) -> None:
        for path in sorted(to.glob("*/*.yaml")):
            self.objects += [item for item in yaml.safe_load_all(path.read_text()) if item["kind"] != "Kustomization"]
        for item in self.objects:
            if item["kind"] in ("ServiceAccount", "Role", "RoleBinding", "ClusterRoleBinding"):
                space = item["metadata"].get("namespace", "")
                place = f"/namespaces/{space}" if space else ""
                api = ("/api/v1" if item["kind"] == "ServiceAccount" else RBAC) + f"{place}/{item['kind'].lower()}s"
                self.client.post(api, item)
                self.made.append(f"{api}/{item['metadata']['name']}")

    def clear(self) -> None:
        for path in self.made:
            self.client.delete(path)

    def run(self, runbook: str, account: str = "") -> subprocess.CompletedProcess[str]:
        """The container of the CronJob, with the profile that its account has, or another's."""
        (job,) = [
            item for item in self.objects if item["kind"] == "CronJob" and item["metadata"]["name"].startswith(runbook)
        ]
        pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        program, *arguments = pod["containers"][0]["command"]
        assert program == "drillbook"
        env = self.lab.env | {
            "DRILLBOOK_SITE": str(self.profile(account or pod["serviceAccountName"])),
            "DRILLBOOK_OUTPUTS": str(self.folder / "evidence"),
        }
        argv = [sys.executable, "-m", program, *arguments]
        return subprocess.run(argv, capture_output=True, text=True, timeout=540, cwd=ROOT, env=env)


SCHEDULES = [
    {"runbook": "check-status", "every": "hour"},
    {"runbook": "backup-manual", "every": "day"},
    {"runbook": "drill-monthly-verification", "every": "month"},
]


@pytest.fixture
def cluster(drill_lab: DrillLab, tmp_path: Path) -> Iterator[Cluster]:
    """With what `drillbook schedule` writes for the three classes."""
    found = Cluster(drill_lab, tmp_path)
    profile = drill_lab.profile_with("schedules", name=found.name, schedules=SCHEDULES)
    image = "registry.example/drillbook:0.1.0"
    done = drill_lab.drillbook("schedule", "--site", str(profile), "--image", image, "--out", str(tmp_path / "k"))
    assert done.returncode == 0, done.stderr
    found.apply(tmp_path / "k")
    yield found
    found.clear()


def owed(cluster: Cluster) -> int:
    """The exit status of `drillbook due` over the evidence of these runs."""
    profile = cluster.lab.scratch / "schedules.yaml"
    evidence = {"DRILLBOOK_OUTPUTS": str(cluster.folder / "evidence")}
    return cluster.lab.drillbook("due", "--site", str(profile), env=evidence).returncode


def test_i17_a_check_runs_once_a_period_with_its_account_and_a_drill_is_refused_to_it(cluster: Cluster) -> None:
    for _ in range(2):
        checked = cluster.run("check-status")
        assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "nothing to do: check-status is done in this hour" in checked.stdout
    refused = cluster.run("drill-monthly-verification", "drillbook-check")
    assert refused.returncode == 4 and "missing right" in refused.stdout + refused.stderr, refused.stdout
    assert cluster.lab.left() == []
    for folder in (cluster.folder / "evidence" / "drill-monthly-verification").iterdir():
        assert "REFUSED" in (folder / "report.html").read_text()
    assert owed(cluster) == 2, "the refused run proves nothing"


@pytest.mark.soak
def test_i17_each_class_is_verified_with_its_own_account_and_refused_with_the_next_smaller(cluster: Cluster) -> None:
    for runbook, smaller in (
        ("check-status", ""),
        ("backup-manual", "drillbook-check"),
        ("drill-monthly-verification", "drillbook-backup"),
    ):
        if smaller:
            refused = cluster.run(runbook, smaller)
            assert refused.returncode == 4 and "missing right" in refused.stdout + refused.stderr, refused.stdout
        done = cluster.run(runbook)
        assert done.returncode == 0 and "VERIFIED" in done.stdout, done.stdout + done.stderr
    assert cluster.lab.left() == [] and owed(cluster) == 0
