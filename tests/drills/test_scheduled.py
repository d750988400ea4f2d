"""What `drillbook schedule` writes, run by the lab: each class with its own account, its evidence locked away, silence an alert."""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import yaml
from fix_drills import ROOT, DrillLab, until
from prometheus_client.parser import text_string_to_metric_families
from test_planted_secrets import BUCKET, stored

from drillbook import kube as k8s
from drillbook_lab.home import LabHome
from drillbook_lab.view import Client

pytestmark = pytest.mark.long
TOKEN = "a-token-for-this-test-only"
Object = dict[str, Any]


def place(item: Object) -> str:
    """Where the API server keeps the objects of this kind."""
    space = item["metadata"].get("namespace", "")
    plural = re.sub("ys$", "ies", f"{item['kind'].lower()}s")
    api = f"/apis/{item['apiVersion']}" if "/" in item["apiVersion"] else "/api/v1"
    return f"{api}{f'/namespaces/{space}' if space else ''}/{plural}"


class Cluster:
    """The rendered objects on the lab, and what becomes of them."""

    def __init__(self, lab: DrillLab, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        self.name = str(LabHome(lab.home).state()["profile"])  # the lab's roles bear the name of its site
        self.home = lab.site.drillbook_namespace
        self.client = Client(LabHome(lab.home))
        self.made: list[str] = []
        self.objects: list[Object] = []

    def render(self) -> None:
        """The profile with all that it extends, as a pod has it: without a kubeconfig."""
        for name in ("lab.yaml", "synergyflow.yaml"):
            (self.folder / name).write_text((ROOT / "sites" / name).read_text())
        endpoint = json.loads((self.lab.home / "s3" / "admin.json").read_text())["endpoint"]
        archive = {"bucket": BUCKET, "prefix": "scheduled", "endpoint_url": endpoint, "mode": "GOVERNANCE", "years": 1}
        profile = {
            "extends": "lab.yaml",
            "name": self.name,
            "identity": self.lab.site.identity.model_dump(),
            "schedules": SCHEDULES,
            "evidence": {"archive": archive | {"secret": {"name": BUCKET}}},
        }
        (self.folder / "site.yaml").write_text(yaml.safe_dump(profile))
        to, image = self.folder / "k", "registry.example/drillbook:0.1.0"
        arguments = ("--site", str(self.folder / "site.yaml"), "--image", image, "--out", str(to))
        done = self.lab.drillbook("schedule", *arguments)
        assert done.returncode == 0, done.stderr
        for path in sorted(to.glob("*/*.yaml")):
            self.objects += [item for item in yaml.safe_load_all(path.read_text()) if item["kind"] != "Kustomization"]

    def apply(self) -> None:
        """All but the exporter, which reads once a minute; the CronJobs suspended, so that they start when a test says so."""
        files = {path.name: path.read_text() for path in self.folder.glob("*.yaml")}
        self._create(self._named("ConfigMap", f"drillbook-site-{self.name}", data=files))
        self._create(self._named("Secret", "drillbook-exporter", stringData={"token": TOKEN}))
        for item in self.objects:
            if item["kind"] == "CronJob":
                item["spec"]["suspend"] = True
            if item["kind"] != "Deployment":
                self._create(item)

    def _named(self, kind: str, name: str, **content: Any) -> Object:
        return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": self.home}, **content}

    def _create(self, item: Object) -> Object:
        made = self.client.post(place(item), item)
        self.made.append(f"{place(item)}/{item['metadata']['name']}")
        return made

    def clear(self) -> None:
        for path in reversed(self.made):
            self.client.delete(path)
        until(
            lambda: not self.lab.admin.list(k8s.POD, self.home) and not self.lab.admin.list(k8s.PVC, self.home),
            "nothing of the schedules is left",
        )

    # -- Jobs --------------------------------------------------------------------------------------------------

    def cron_job(self, runbook: str) -> Object:
        (found,) = [item for item in self.objects if item["kind"] == "CronJob" and runbook in item["metadata"]["name"]]
        return found

    def status(self, runbook: str) -> Object:
        item = self.cron_job(runbook)
        return dict(self.client.get(f"{place(item)}/{item['metadata']['name']}").get("status") or {})

    def change(self, runbook: str, body: Object, subresource: str = "") -> None:
        item = self.cron_job(runbook)
        self.client.patch(f"{place(item)}/{item['metadata']['name']}{subresource}", body)

    def start(self, runbook: str, account: str = "") -> Object:
        """As `kubectl create job --from` does; with another account where one is named. The Job, ended."""
        spec = copy.deepcopy(self.cron_job(runbook)["spec"]["jobTemplate"]["spec"])
        if account:
            spec["template"]["spec"]["serviceAccountName"] = account
        job = self._named("Job", f"by-hand-{time.time_ns()}", spec=spec) | {"apiVersion": "batch/v1"}
        self._create(job)
        return self.ended(job["metadata"]["name"])

    def ended(self, name: str) -> Object:
        def look() -> Object | None:
            found = self.lab.admin.get(k8s.JOB, self.home, name) or {}
            kinds = {entry["type"] for entry in (found.get("status") or {}).get("conditions") or ()}
            return found if kinds & {"Complete", "Failed"} else None

        found = until(look, f"{name} has ended")
        assert found is not None
        return found

    def pod(self, job: Object) -> Object:
        name = job["metadata"]["name"]
        (pod,) = self.lab.admin.list(k8s.POD, self.home, labels=f"batch.kubernetes.io/job-name={name}")
        return pod

    def log(self, job: Object) -> str:
        return self.lab.admin.log(self.home, self.pod(job)["metadata"]["name"], "runbook")

    def completed(self, runbook: str) -> str:
        job = self.start(runbook)
        assert job["status"].get("succeeded") == 1, self.log(job)
        return self.log(job)

    def refused(self, runbook: str, account: str) -> str:
        """The words of a run whose account may not do it."""
        job = self.start(runbook, account)
        (container,) = self.pod(job)["status"]["containerStatuses"]
        assert job["status"]["failed"] == 1 and container["state"]["terminated"]["exitCode"] == 4, self.log(job)
        return self.log(job)

    @property
    def evidence(self) -> Path:
        """The volume, as its node has it."""
        (claim,) = self.lab.admin.list(k8s.PVC, self.home)
        volume = self.client.get(f"/api/v1/persistentvolumes/{claim['spec']['volumeName']}")
        return Path(volume["spec"]["hostPath"]["path"])

    # -- the exporter ------------------------------------------------------------------------------------------

    def exporter(self) -> Object:
        """The exporter's pod, once it is ready: it has read the evidence as it is now."""
        (item,) = [item for item in self.objects if item["kind"] == "Deployment"]
        self._create(item)

        def look() -> list[Object]:
            pods = self.lab.admin.list(k8s.POD, self.home, labels="app.kubernetes.io/component=exporter")
            conditions = [entry for pod in pods for entry in (pod.get("status") or {}).get("conditions") or ()]
            return pods if any(one["type"] == "Ready" and one["status"] == "True" for one in conditions) else []

        return until(look, "the exporter is ready")[0]


def firing(pod: Object, alert: str) -> set[str]:
    """The runbooks for which an alert's expression holds, by what the exporter's pod serves."""
    groups = yaml.safe_load((ROOT / "deploy" / "monitoring" / "rules.yaml").read_text())["spec"]["groups"]
    (expression,) = [rule["expr"] for group in groups for rule in group["rules"] if rule["alert"] == alert]
    asked = re.fullmatch(r'drillbook_due\{state=~"(.+)"\} == 1', expression)
    assert asked
    address = f"http://{pod['status']['podIP']}:9477/metrics"
    with urlopen(Request(address, headers={"Authorization": f"Bearer {TOKEN}"}), timeout=30) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {
        sample.labels["runbook"]
        for family in families
        for sample in family.samples
        if sample.name == "drillbook_due" and sample.value == 1 and re.fullmatch(asked[1], sample.labels["state"])
    }


def hours_ago(hours: int) -> str:
    return f"{datetime.now(UTC) - timedelta(hours=hours):%Y-%m-%dT%H:%M:%SZ}"


SCHEDULES = [
    {"runbook": "check-status", "every": "hour", "cron": "* * * * *", "since": hours_ago(2)},
    {"runbook": "check-readiness", "every": "hour", "since": hours_ago(2)},
    {"runbook": "backup-manual", "every": "day"},
    {"runbook": "drill-monthly-verification", "every": "month"},
]


@pytest.fixture
def cluster(drill_lab: DrillLab, tmp_path: Path) -> Iterator[Cluster]:
    """With what `drillbook schedule` writes for the three classes."""
    found = Cluster(drill_lab, tmp_path)
    found.render()
    try:
        found.apply()
        yield found
    finally:
        found.clear()


def test_i17_the_lab_runs_what_is_scheduled_and_what_is_missed_raises_the_alert(cluster: Cluster) -> None:
    begun = datetime.now(UTC)
    # As after five minutes without a controller: one Job makes up for all that was missed.
    cluster.change(
        "check-status", {"status": {"lastScheduleTime": f"{begun - timedelta(minutes=5):%FT%TZ}"}}, "/status"
    )
    cluster.change("check-status", {"spec": {"suspend": False}})
    job = cluster.ended(until(lambda: cluster.status("check-status").get("active"), "a Job began")[0]["name"])
    cluster.change("check-status", {"spec": {"suspend": True}})
    log = cluster.log(job)
    assert job["status"].get("succeeded") == 1, log
    assert "VERIFIED" in log and re.match("report .*/check-status/", log.splitlines()[-3])
    (run,) = (cluster.evidence / "check-status").iterdir()
    record = json.loads((run / "record.json").read_text())
    assert record["verdict"]["verdict"] == "VERIFIED" and (run / "SHA256SUMS").is_file()
    assert f"system:serviceaccount:{cluster.home}:drillbook-check" in json.dumps(record["who"])
    assert stored(cluster.lab, run.name), "it is locked away"
    until(lambda: cluster.status("check-status").get("lastSuccessfulTime"), "the CronJob knows of it")

    again = cluster.completed("check-status")
    assert "nothing to do: check-status is done in this hour" in again or datetime.now(UTC).hour != begun.hour
    assert "missing right" in cluster.refused("drill-monthly-verification", "drillbook-check")
    assert cluster.lab.left() == []

    pod = cluster.exporter()
    raised = until(lambda: firing(pod, "DrillbookTestFailedOrMissing"), "an alert is raised")
    assert raised == {"check-readiness"}, "its CronJob is suspended"
    later = f"{begun + timedelta(hours=3):%FT%TZ}"
    asked = ["drillbook", "due", "--at", later]
    owed = cluster.lab.admin.exec(cluster.home, pod["metadata"]["name"], "exporter", asked, timeout_seconds=60)
    assert owed.exit_code == 1 and re.search(r"check-status \(each hour\).*missing", owed.text), owed.text


@pytest.mark.soak
def test_i17_each_class_is_verified_with_its_own_account_and_refused_with_the_next_smaller(cluster: Cluster) -> None:
    for runbook, smaller in (
        ("check-status", ""),
        ("backup-manual", "drillbook-check"),
        ("drill-monthly-verification", "drillbook-backup"),
    ):
        if smaller:
            assert "missing right" in cluster.refused(runbook, smaller)
        assert "VERIFIED" in cluster.completed(runbook)
    assert cluster.lab.left() == []
    pod = cluster.exporter()
    until(lambda: firing(pod, "DrillbookTestFailedOrMissing"), "the evidence was read")
    assert firing(pod, "DrillbookTestLateOrUnproven") == set()


@pytest.mark.soak
def test_i17_a_cron_job_starts_at_its_minute_by_itself_and_a_deleted_one_takes_its_run_along(cluster: Cluster) -> None:
    cluster.change("check-status", {"spec": {"suspend": False}})
    started = until(lambda: cluster.status("check-status").get("lastScheduleTime"), "its minute came")
    assert started.endswith(":00Z")
    item = cluster.cron_job("check-status")
    path = f"{place(item)}/{item['metadata']['name']}"
    until(lambda: (cluster.evidence / "check-status").is_dir(), "the run has begun")
    cluster.client.delete(path)
    cluster.made.remove(path)
    until(lambda: not cluster.lab.admin.list(k8s.POD, cluster.home), "its pod is gone")
    (run,) = (cluster.evidence / "check-status").iterdir()
    assert (run / "record.json").is_file(), "a run that is stopped is sealed"
