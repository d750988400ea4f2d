"""kubectl, the real program, against the server: what an engineer does by hand works here too."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import yaml
from fix_apiserver import Api, Kubectl, cluster

from drillbook.manifests.schedule import cron_job
from drillbook.profile import load_site
from drillbook.profile.schema import Every, Schedule

ROOT = Path(__file__).resolve().parents[2]


def test_get_shows_the_printer_columns(api: Api, kubectl: Kubectl) -> None:
    api.do(api.registry.create, cluster())
    api.do(
        api.registry.patch,
        "Cluster",
        "default",
        "orders",
        {
            "status": {
                "phase": "Cluster in healthy state",
                "instances": 1,
                "readyInstances": 1,
                "currentPrimary": "orders-1",
            }
        },
        subresource="status",
    )
    shown = kubectl("get", "clusters.postgresql.cnpg.io", "-n", "default").splitlines()
    assert shown[0].split() == ["NAME", "AGE", "INSTANCES", "READY", "STATUS", "PRIMARY"]
    assert shown[1].startswith("orders ") and shown[1].endswith("orders-1")
    assert "Cluster in healthy state" in shown[1]


def test_apply_twice_creates_then_changes(api: Api, kubectl: Kubectl) -> None:
    wanted = cluster()
    assert "created" in kubectl("apply", "-f", "-", stdin=yaml.safe_dump(wanted))
    assert "unchanged" in kubectl("apply", "-f", "-", stdin=yaml.safe_dump(wanted))
    wanted["spec"]["instances"] = 2
    assert "configured" in kubectl("apply", "-f", "-", stdin=yaml.safe_dump(wanted))
    stored = api.do(api.registry.get, "Cluster", "default", "orders")
    assert stored["spec"]["instances"] == 2
    assert stored["metadata"]["generation"] == 2


def test_apply_refuses_an_unknown_field_by_name(kubectl: Kubectl) -> None:
    wrong = cluster(barmanObjectStore={"destinationPath": "s3://b/p"})
    said = kubectl("apply", "-f", "-", stdin=yaml.safe_dump(wrong), code=1)
    assert 'unknown field "spec.barmanObjectStore"' in said


def test_apply_and_patch_of_built_in_kinds(api: Api, kubectl: Kubectl) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "c", "namespace": "default"},
        "data": {"a": "1"},
    }
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(config))
    config["data"] = {"b": "2"}
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(config))
    kubectl("patch", "configmap", "c", "-n", "default", "-p", '{"data": {"c": "3"}}')
    kubectl("label", "configmap", "c", "-n", "default", "kept=yes")
    stored = api.do(api.registry.get, "ConfigMap", "default", "c")
    assert stored["data"] == {"b": "2", "c": "3"}
    assert stored["metadata"]["labels"] == {"kept": "yes"}


def test_dry_run_changes_nothing(api: Api, kubectl: Kubectl) -> None:
    said = kubectl("apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(cluster()))
    assert "created (server dry run)" in said
    assert api.do(api.registry.list, "Cluster") == []
    changing = [line for line in api.audited() if line["verb"] in ("create", "update", "patch", "delete")]
    assert changing and all(line["dry_run"] for line in changing)


def test_watch_prints_each_change(api: Api, kubectl: Kubectl) -> None:
    api.do(api.registry.create, cluster())
    watching = kubectl.start("get", "clusters.postgresql.cnpg.io", "-n", "default", "-w")
    try:
        assert watching.stdout is not None
        assert watching.stdout.readline().startswith("NAME")
        assert watching.stdout.readline().startswith("orders")
        api.do(
            api.registry.patch,
            "Cluster",
            "default",
            "orders",
            {"status": {"phase": "Setting up primary"}},
            subresource="status",
        )
        assert "Setting up primary" in watching.stdout.readline()
    finally:
        watching.kill()
        watching.communicate()


def test_wait_ends_when_the_condition_comes_true(api: Api, kubectl: Kubectl) -> None:
    api.do(api.registry.create, cluster())
    waiting = kubectl.start("wait", "--for=condition=Ready", "cluster/orders", "-n", "default", "--timeout=30s")
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "ClusterIsReady",
        "message": "ready",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    api.do(
        api.registry.patch, "Cluster", "default", "orders", {"status": {"conditions": [ready]}}, subresource="status"
    )
    said, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, said
    assert "condition met" in said


def test_delete_waits_until_the_finalizer_is_gone(api: Api, kubectl: Kubectl) -> None:
    pod = api.pod("p")
    api.do(api.registry.patch, "Pod", "default", "p", {"metadata": {"finalizers": ["lab.drillbook/processes"]}})
    deleting = kubectl.start("delete", "pod", "p", "-n", "default")
    assert deleting.stdout is not None
    assert "deleted" in deleting.stdout.readline()
    marked = api.do(api.registry.get, "Pod", "default", "p")
    assert marked["metadata"]["deletionTimestamp"] and marked["metadata"]["uid"] == pod["metadata"]["uid"]
    api.do(api.registry.patch, "Pod", "default", "p", {"metadata": {"finalizers": None}})
    said, _ = deleting.communicate(timeout=60)
    assert deleting.returncode == 0, said
    assert api.do(api.registry.list, "Pod") == []


def test_logs_tail_and_follow(api: Api, kubectl: Kubectl) -> None:
    api.pod("p", log=b"one\ntwo\nthree\n")
    assert kubectl("logs", "p", "-n", "default") == "one\ntwo\nthree\n"
    assert kubectl("logs", "p", "-n", "default", "--tail=2") == "two\nthree\n"
    following = kubectl.start("logs", "-f", "p", "-n", "default")
    assert following.stdout is not None
    assert [following.stdout.readline() for _ in range(3)] == ["one\n", "two\n", "three\n"]
    with (api.folder / "default.p.main.log").open("ab") as log:
        log.write(b"four\n")
    assert following.stdout.readline() == "four\n"
    api.pod_phase("p", "Succeeded")
    rest, _ = following.communicate(timeout=60)
    assert (rest, following.returncode) == ("", 0)


def test_exec_carries_streams_and_exit_code(api: Api, kubectl: Kubectl) -> None:
    api.pod("p")
    said = kubectl("exec", "-i", "p", "-n", "default", "--", "sh", "-c", "cat; echo lost >&2", stdin="in and out\n")
    assert said == "in and out\nlost\n"
    assert "exit code 7" in kubectl("exec", "p", "-n", "default", "--", "sh", "-c", "exit 7", code=7)
    assert "No such file" in kubectl("exec", "p", "-n", "default", "--", "no-such-program", code=1)


def test_discovery_names_every_kind(kubectl: Kubectl) -> None:
    named = kubectl("api-resources", "--no-headers")
    for kind in ("Cluster", "Backup", "ScheduledBackup", "ObjectStore", "Pod", "Lease", "NetworkPolicy", "RoleBinding"):
        assert f" {kind}\n" in named + "\n" or f"{kind}\n" in named
    assert "instances" in kubectl("explain", "clusters.postgresql.cnpg.io.spec")


def test_can_i_and_who_am_i(api: Api, kubectl: Kubectl) -> None:
    assert kubectl("auth", "can-i", "delete", "clusters.postgresql.cnpg.io", "-n", "default") == "yes\n"
    drill = ("--context", "lab")
    assert kubectl(*drill, "auth", "can-i", "delete", "pods", "-n", "default", code=1).startswith("no")
    assert "system:serviceaccount:drillbook:drillbook" in kubectl(*drill, "auth", "whoami")
    assert "cannot list resource" in kubectl(*drill, "get", "pods", "-n", "default", code=1)


def test_get_as_json_round_trips(api: Api, kubectl: Kubectl) -> None:
    api.do(api.registry.create, cluster())
    got = json.loads(kubectl("get", "cluster", "orders", "-n", "default", "-o", "json", "--show-managed-fields"))
    assert got == api.do(api.registry.get, "Cluster", "default", "orders")
    kubectl("replace", "-f", "-", stdin=json.dumps(got))
    old = {**got, "metadata": {**got["metadata"], "resourceVersion": "1"}}
    assert "the object has been modified" in kubectl("replace", "-f", "-", stdin=json.dumps(old), code=1)


def test_imperative_commands_send_protobuf_and_are_read(api: Api, kubectl: Kubectl) -> None:
    kubectl("create", "namespace", "drills")
    kubectl("create", "secret", "generic", "s", "-n", "drills", "--from-literal=password=ünlike")
    kubectl("create", "configmap", "c", "-n", "drills", "--from-literal=a=1")
    kubectl("create", "serviceaccount", "drillbook", "-n", "drills")
    kubectl("create", "role", "r", "-n", "drills", "--verb=get,list", "--resource=pods,pods/log")
    kubectl("create", "rolebinding", "b", "-n", "drills", "--role=r", "--serviceaccount=drillbook:drillbook")
    secret = api.do(api.registry.get, "Secret", "drills", "s")
    assert base64.b64decode(secret["data"]["password"]).decode() == "ünlike"
    assert kubectl("--context", "lab", "auth", "can-i", "get", "pods", "--subresource=log", "-n", "drills") == "yes\n"
    said = kubectl("create", "clusterrole", "all", "--aggregation-rule=a=b", code=1)  # a field that isn't read
    assert "kubectl apply -f" in said


def test_workloads_are_created_imperatively(api: Api, kubectl: Kubectl) -> None:
    n = ("-n", "default")
    kubectl("create", "deployment", "d", *n, "--image=x:1", "--replicas=2", "--port=80", "--", "sleep", "1")
    made = api.do(api.registry.get, "Deployment", "default", "d")
    container = made["spec"]["template"]["spec"]["containers"][0]
    assert (made["spec"]["replicas"], made["spec"]["selector"]) == (2, {"matchLabels": {"app": "d"}})
    assert (container["image"], container["command"], container["ports"][0]["containerPort"]) == (
        "x:1",
        ["sleep", "1"],
        80,
    )
    assert "hostNetwork" not in made["spec"]["template"]["spec"] and "paused" not in made["spec"]
    kubectl("create", "job", "j", *n, "--image=x", "--", "true")
    assert api.do(api.registry.get, "Job", "default", "j")["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    kubectl("create", "cronjob", "c", *n, "--image=x", "--schedule=0 2 * * *")
    assert api.do(api.registry.get, "CronJob", "default", "c")["spec"]["schedule"] == "0 2 * * *"
    kubectl("create", "quota", "q", *n, "--hard=pods=3,requests.memory=1Gi")
    hard = api.do(api.registry.get, "ResourceQuota", "default", "q")["spec"]["hard"]
    assert hard == {"pods": "3", "requests.memory": "1Gi"}
    kubectl("create", "service", "clusterip", "s", *n, "--tcp=80:http")
    service = api.do(api.registry.get, "Service", "default", "s")["spec"]
    assert service["ports"] == [{"name": "80-http", "protocol": "TCP", "port": 80, "targetPort": "http"}]
    assert (service["type"], service["selector"]) == ("ClusterIP", {"app": "s"})
    kubectl("expose", "deployment", "d", *n, "--port=8080", "--target-port=80")
    assert api.do(api.registry.get, "Service", "default", "d")["spec"]["ports"][0]["targetPort"] == 80
    kubectl("delete", "quota", "q", *n)
    kubectl("run", "r", *n, "--image=x")
    assert api.do(api.registry.get, "Pod", "default", "r")["spec"]["containers"][0]["image"] == "x"


def test_a_job_is_made_from_a_rendered_cron_job(api: Api, kubectl: Kubectl) -> None:
    site = load_site(str(ROOT / "sites" / "synergyflow.yaml"))
    rendered = cron_job(site, Schedule(runbook="check-status", every=Every.HOUR), "x:1")
    api.do(api.registry.create, rendered | {"metadata": {"name": "rendered", "namespace": "default"}})
    kubectl("create", "job", "by-hand", "-n", "default", "--from=cronjob/rendered")
    made, wanted = api.do(api.registry.get, "Job", "default", "by-hand"), rendered["spec"]["jobTemplate"]["spec"]
    assert made["metadata"]["ownerReferences"][0]["name"] == "rendered"
    assert made["spec"]["activeDeadlineSeconds"] == wanted["activeDeadlineSeconds"]
    pod = made["spec"]["template"]["spec"]
    assert {part: pod[part] for part in wanted["template"]["spec"]} == wanted["template"]["spec"]


def test_autoscale_sends_the_older_version(api: Api, kubectl: Kubectl) -> None:
    n = ("-n", "default")
    kubectl("create", "deployment", "a", *n, "--image=x:1")
    kubectl("autoscale", "deployment", "a", *n, "--min=2", "--max=4", "--cpu-percent=70")
    spec = api.do(api.registry.get, "HorizontalPodAutoscaler", "default", "a")["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"], spec["scaleTargetRef"]["name"]) == (2, 4, "a")
    assert spec["metrics"][0]["resource"]["target"] == {"type": "Utilization", "averageUtilization": 70}
    old = json.loads(kubectl("get", "--raw", "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers/a"))
    assert (old["apiVersion"], old["spec"]["targetCPUUtilizationPercentage"]) == ("autoscaling/v1", 70)
