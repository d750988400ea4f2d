"""kubectl's verbs one by one, on built-in and custom kinds: what an engineer types works as on a real cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fix_apiserver import Api, Kubectl, cluster

pytestmark = pytest.mark.soak

Object = dict[str, Any]
N = ("-n", "default")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One server for all: each test has objects of its own names."""
    server = Api(tmp_path_factory.mktemp("a"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def api(shared: Api) -> Api:
    return shared


def deployment(name: str, image: str = "app:1", **spec: Any) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "containers": [
                        {
                            "name": "main",
                            "image": image,
                            "ports": [{"containerPort": 80}],
                            "env": [{"name": "A", "value": "1"}],
                        },
                        {"name": "side", "image": "side:1"},
                    ]
                },
            },
            **spec,
        },
    }


def stored(api: Api, kind: str, name: str) -> Object:
    found: Object = api.do(api.registry.get, kind, "default", name)
    return found


def managers(obj: Object) -> set[tuple[str, str]]:
    return {(entry["manager"], entry["operation"]) for entry in obj["metadata"].get("managedFields", ())}


def test_apply_twice_leaves_it_unchanged(kubectl: Kubectl) -> None:
    for wanted in (deployment("twice"), cluster("twice")):
        text = yaml.safe_dump(wanted)
        assert "created" in kubectl("apply", "-f", "-", stdin=text)
        assert "unchanged" in kubectl("apply", "-f", "-", stdin=text)


def test_server_side_apply_with_a_conflict_that_can_be_forced(api: Api, kubectl: Kubectl) -> None:
    for wanted, field, value in (
        (deployment("ssa"), ".spec.replicas", ("spec", "replicas", 3)),
        (cluster("ssa"), ".spec.instances", ("spec", "instances", 3)),
    ):
        kind = wanted["kind"]
        apply = ("apply", "--server-side", "-f", "-")
        assert "serverside-applied" in kubectl(*apply, stdin=yaml.safe_dump(wanted))
        version = stored(api, kind, "ssa")["metadata"]["resourceVersion"]
        kubectl(*apply, stdin=yaml.safe_dump(wanted))
        assert stored(api, kind, "ssa")["metadata"]["resourceVersion"] == version
        wanted[value[0]][value[1]] = value[2]
        said = kubectl(*apply, "--field-manager=argo", stdin=yaml.safe_dump(wanted), code=1)
        assert f'Apply failed with 1 conflict: conflict with "kubectl": {field}' in said
        kubectl(*apply, "--field-manager=argo", "--force-conflicts", stdin=yaml.safe_dump(wanted))
        now = stored(api, kind, "ssa")
        assert now[value[0]][value[1]] == value[2]
        assert managers(now) == {("kubectl", "Apply"), ("argo", "Apply")}


def test_client_side_apply_can_go_on_server_side(api: Api, kubectl: Kubectl) -> None:
    wanted = deployment("moved")
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(wanted))
    assert managers(stored(api, "Deployment", "moved")) == {("kubectl-client-side-apply", "Update")}
    wanted["spec"]["template"]["spec"]["containers"].pop()
    wanted["spec"]["template"]["spec"]["containers"][0]["image"] = "app:2"
    kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump(wanted))
    kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump(wanted))
    now = stored(api, "Deployment", "moved")
    assert ("kubectl-client-side-apply", "Update") not in managers(now)
    assert [c["image"] for c in now["spec"]["template"]["spec"]["containers"]] == ["app:2"]


def test_diff_tells_by_its_exit_code(api: Api, kubectl: Kubectl) -> None:
    wanted = cluster("differs")
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(wanted))
    assert kubectl("diff", "-f", "-", stdin=yaml.safe_dump(wanted)) == ""
    wanted["spec"]["instances"] = 3
    said = kubectl("diff", "-f", "-", stdin=yaml.safe_dump(wanted), code=1)
    assert "-  instances: 1" in said and "+  instances: 3" in said
    assert "+  instances: 3" in kubectl("diff", "--server-side", "-f", "-", stdin=yaml.safe_dump(wanted), code=1)
    assert stored(api, "Cluster", "differs")["spec"]["instances"] == 1


def test_explain_knows_the_fields_of_every_kind(kubectl: Kubectl) -> None:
    assert "FIELD: replicas <integer>" in kubectl("explain", "deployment.spec.replicas")
    assert "FIELD: containers <[]Container>" in kubectl("explain", "pod.spec.containers")
    assert "targetPort" in kubectl("explain", "service.spec.ports")
    assert "resizeInUseVolumes\t<boolean>" in kubectl("explain", "cluster.spec.storage")
    assert "FIELD: metadata <ObjectMeta>" in kubectl("explain", "clusters.postgresql.cnpg.io.metadata")
    assert "retentionPolicy" in kubectl("explain", "objectstore.spec")
    assert "does not exist" in kubectl("explain", "deployment.spec.nonsense", code=1)


def test_edit_with_a_script_for_an_editor(api: Api, kubectl: Kubectl, tmp_path: Path) -> None:
    script = tmp_path / "editor"
    script.write_text("#!/bin/sh\nsed -i 's/replicas: 2/replicas: 7/;s/instances: 1/instances: 3/' \"$1\"\n")
    script.chmod(0o755)
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(deployment("edited")))
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(cluster("edited")))
    env = kubectl.env
    kubectl.env = {**env, "EDITOR": str(script)}
    assert "edited" in kubectl("edit", "deployment", "edited", *N)
    assert "edited" in kubectl("edit", "cluster", "edited", *N)
    kubectl.env = {**env, "EDITOR": "true"}
    assert "no changes made" in kubectl("edit", "cluster", "edited", *N)
    assert stored(api, "Deployment", "edited")["spec"]["replicas"] == 7
    assert stored(api, "Cluster", "edited")["spec"]["instances"] == 3


def test_scale(api: Api, kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(deployment("scaled")))
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(cluster("scaled")))
    assert "scaled" in kubectl("scale", "deployment", "scaled", "--replicas=5", *N)
    assert "scaled" in kubectl("scale", "cluster", "scaled", "--replicas=3", *N)
    said = kubectl("scale", "deployment", "scaled", "--replicas=1", "--current-replicas=2", *N, code=1)
    assert "Expected replicas to be 2, was 5" in said
    assert stored(api, "Deployment", "scaled")["spec"]["replicas"] == 5
    assert stored(api, "Cluster", "scaled")["spec"]["instances"] == 3


def test_patches_of_each_type(api: Api, kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(deployment("patched")))
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(cluster("patched")))
    image = {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "app:2"}]}}}}
    kubectl("patch", "deployment", "patched", *N, "--type=strategic", "-p", json.dumps(image))
    names = [
        (c["name"], c["image"]) for c in stored(api, "Deployment", "patched")["spec"]["template"]["spec"]["containers"]
    ]
    assert names == [("main", "app:2"), ("side", "side:1")]
    kubectl("patch", "deployment", "patched", *N, "--type=merge", "-p", json.dumps(image))
    assert len(stored(api, "Deployment", "patched")["spec"]["template"]["spec"]["containers"]) == 1
    for kind, path in (("deployment", "/spec/replicas"), ("cluster", "/spec/instances")):
        operations = [
            {"op": "test", "path": path, "value": 2 if kind == "deployment" else 1},
            {"op": "replace", "path": path, "value": 3},
        ]
        kubectl("patch", kind, "patched", *N, "--type=json", "-p", json.dumps(operations))
        kubectl("patch", kind, "patched", *N, "--type=json", "-p", json.dumps(operations), code=1)
    kubectl("patch", "cluster", "patched", *N, "--type=merge", "-p", '{"spec":{"instances":1}}')
    assert stored(api, "Cluster", "patched")["spec"]["instances"] == 1
    said = kubectl("patch", "cluster", "patched", *N, "--type=strategic", "-p", '{"spec":{"instances":2}}', code=1)
    assert "unknown format" in said or "not supported" in said
    status = kubectl(
        "patch", "cluster", "patched", *N, "--subresource=status", "--type=merge", "-p", '{"status":{"phase":"seen"}}'
    )
    assert "patched" in status and stored(api, "Cluster", "patched")["status"]["phase"] == "seen"


def test_wait_for_a_json_path_and_for_deletion(api: Api, kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(cluster("awaited")))
    for condition in ("jsonpath={.status.phase}=ready", "delete"):
        waiting = kubectl.start("wait", f"--for={condition}", "cluster/awaited", *N, "--timeout=50s")
        if condition == "delete":
            api.do(api.registry.delete, "Cluster", "default", "awaited")
        else:
            api.do(
                api.registry.patch,
                "Cluster",
                "default",
                "awaited",
                {"status": {"phase": "ready"}},
                subresource="status",
            )
        said, _ = waiting.communicate(timeout=60)
        assert waiting.returncode == 0, said
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(cluster("awaited")))
    assert "timed out" in kubectl("wait", "--for=condition=Ready", "cluster/awaited", *N, "--timeout=1s", code=1)


def test_label_and_annotate(api: Api, kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(cluster("marked")))
    assert "labeled" in kubectl("label", "cluster", "marked", "tier=gold", *N)
    assert "already has a value" in kubectl("label", "cluster", "marked", "tier=iron", *N, code=1)
    kubectl("label", "cluster", "marked", "tier=iron", "--overwrite", *N)
    assert "annotated" in kubectl("annotate", "cluster", "marked", "cnpg.io/hibernation=on", *N)
    meta = stored(api, "Cluster", "marked")["metadata"]
    assert meta["labels"] == {"tier": "iron"} and meta["annotations"]["cnpg.io/hibernation"] == "on"
    kubectl("label", "cluster", "marked", "tier-", *N)
    kubectl("annotate", "cluster", "marked", "cnpg.io/hibernation-", *N)
    meta = stored(api, "Cluster", "marked")["metadata"]
    assert not meta.get("labels") and "cnpg.io/hibernation" not in meta["annotations"]
    assert "cluster.postgresql.cnpg.io/marked" in kubectl("get", "cluster", "-l", "!tier", *N, "-o", "name")


def test_set_env_and_image_and_rollout(api: Api, kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(deployment("set")))
    assert "env updated" in kubectl("set", "env", "deployment/set", "B=2", "A-", *N)
    assert "image updated" in kubectl("set", "image", "deployment/set", "main=app:9", *N)
    assert "resource requirements updated" in kubectl(
        "set", "resources", "deployment/set", "--limits=cpu=1", "-c", "main", *N
    )
    main = stored(api, "Deployment", "set")["spec"]["template"]["spec"]["containers"][0]
    assert (main["image"], main["env"], main["resources"]) == (
        "app:9",
        [{"name": "B", "value": "2"}],
        {"limits": {"cpu": "1"}},
    )
    assert "restarted" in kubectl("rollout", "restart", "deployment/set", *N)
    assert "paused" in kubectl("rollout", "pause", "deployment/set", *N)
    assert "resumed" in kubectl("rollout", "resume", "deployment/set", *N)
    generation = stored(api, "Deployment", "set")["metadata"]["generation"]
    done = {
        "observedGeneration": generation,
        "replicas": 2,
        "updatedReplicas": 2,
        "readyReplicas": 2,
        "availableReplicas": 2,
    }
    api.do(api.registry.patch, "Deployment", "default", "set", {"status": done}, subresource="status")
    assert "successfully rolled out" in kubectl("rollout", "status", "deployment/set", "--timeout=20s", *N)


def test_get_in_every_form(api: Api, kubectl: Kubectl) -> None:
    for name, replicas in (("get-b", 1), ("get-a", 9)):
        kubectl("apply", "-f", "-", stdin=yaml.safe_dump(deployment(name, replicas=replicas)))
    chosen = ("get", "deployments", "get-a", "get-b", *N)
    wide = kubectl(*chosen, "-o", "wide").splitlines()
    assert wide[0].split() == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "CONTAINERS", "IMAGES", "SELECTOR"]
    assert wide[1].split()[:4] == ["get-a", "0/9", "0", "0"] and "main,side" in wide[1]
    assert len(yaml.safe_load(kubectl(*chosen, "-o", "yaml"))["items"]) == 2
    assert kubectl(*chosen, "-o", "jsonpath={.items[*].spec.replicas}") == "9 1"
    ordered = kubectl("get", "deployments", *N, "--sort-by=.spec.replicas", "-o", "name").split()
    ours = [line for line in ordered if line.rpartition("/")[2] in ("get-a", "get-b")]
    assert ours == ["deployment.apps/get-b", "deployment.apps/get-a"]
    columns = kubectl(*chosen, "-o", "custom-columns=N:.metadata.name,I:.spec.template.spec.containers[0].image")
    assert columns.split() == ["N", "I", "get-a", "app:1", "get-b", "app:1"]
    assert "kubectl-client-side-apply" in kubectl(*chosen, "-o", "yaml", "--show-managed-fields")
    assert "deployment.apps/get-a" in kubectl("get", "all", *N)
    assert "not found" in kubectl("get", "deployment", "get-none", *N, code=1)
    many = kubectl("get", "deployments", *N, "--chunk-size=1", "-o", "name")
    assert sorted(many.split()) == sorted(ordered)


def test_describe_never_fails(api: Api, kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(deployment("told")))
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(cluster("told")))
    api.pod("told")
    uid = stored(api, "Cluster", "told")["metadata"]["uid"]
    api.do(
        api.registry.create,
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": "told.1", "namespace": "default"},
            "involvedObject": {
                "apiVersion": "postgresql.cnpg.io/v1",
                "kind": "Cluster",
                "name": "told",
                "namespace": "default",
                "uid": uid,
            },
            "reason": "Seen",
            "message": "it was seen",
            "type": "Normal",
            "count": 1,
            "source": {"component": "lab"},
            "firstTimestamp": "2026-01-01T00:00:00Z",
            "lastTimestamp": "2026-01-01T00:00:00Z",
        },
    )
    kubectl("expose", "deployment", "told", "--port=80", *N)
    said = kubectl("describe", "cluster", "told", *N)
    assert "Seen" in said and "it was seen" in said
    for what in ("deployment/told", "pod/told", "service/told", "namespace/default", "crd/clusters.postgresql.cnpg.io"):
        assert "Name:" in kubectl("describe", what, *N)
    assert "it was seen" in kubectl("events", *N, "--for=cluster.v1.postgresql.cnpg.io/told")
    assert "it was seen" in kubectl("get", "events", *N)


def test_create_from_files_and_literals(api: Api, kubectl: Kubectl, tmp_path: Path) -> None:
    file = tmp_path / "key.bin"
    file.write_bytes(b"\x00\xff")
    kubectl("create", "secret", "generic", "made", f"--from-file=key={file}", "--from-literal=a=b", *N)
    kubectl("create", "configmap", "made", f"--from-file={file}", "--from-literal=a=b", *N)
    assert set(stored(api, "Secret", "made")["data"]) == {"key", "a"}
    assert stored(api, "ConfigMap", "made")["binaryData"] == {"key.bin": "AP8="}
    assert "already exists" in kubectl("create", "configmap", "made", *N, code=1)
    dry = kubectl("create", "configmap", "dry", "--from-literal=a=b", "--dry-run=server", "-o", "yaml", *N)
    assert yaml.safe_load(dry)["metadata"]["uid"]
    assert "not found" in kubectl("get", "configmap", "dry", *N, code=1)


@pytest.mark.parametrize("cascade", ["background", "foreground", "orphan"])
def test_delete_with_each_cascade(api: Api, kubectl: Kubectl, cascade: str) -> None:
    name = f"gone-{cascade}"
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(cluster(name)))
    owner = stored(api, "Cluster", name)
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": "Cluster",
        "name": name,
        "uid": owner["metadata"]["uid"],
        "blockOwnerDeletion": True,
    }
    api.do(
        api.registry.create,
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "data": {},
            "metadata": {"name": name, "namespace": "default", "ownerReferences": [reference]},
        },
    )
    assert "deleted" in kubectl("delete", "cluster", name, f"--cascade={cascade}", *N)
    kept = kubectl("get", "configmap", name, *N, "--ignore-not-found", "-o", "name")
    assert kept.strip() == (f"configmap/{name}" if cascade == "orphan" else "")


def test_can_i_and_what_there_is(kubectl: Kubectl) -> None:
    assert "*.*" in kubectl("auth", "can-i", "--list", *N)
    assert kubectl("auth", "can-i", "update", "clusters/scale", *N) == "yes\n"
    # Everybody may ask about themselves, and the answer lists what a role gives.
    assert "selfsubjectaccessreviews" in kubectl("--context", "lab", "auth", "can-i", "--list", *N)
    listed = kubectl("api-resources", "--namespaced", "-o", "name").split()
    assert {"clusters.postgresql.cnpg.io", "deployments.apps", "pods", "leases.coordination.k8s.io"} <= set(listed)
    assert "postgresql.cnpg.io/v1" in kubectl("api-versions").split()


def test_a_strict_apply_lists_every_unknown_field(kubectl: Kubectl) -> None:
    wrong = deployment("wrong", replcas=1)
    wrong["metadata"]["lables"] = {}
    said = kubectl("apply", "-f", "-", stdin=yaml.safe_dump(wrong), code=1)
    assert 'strict decoding error: unknown field "metadata.lables", unknown field "spec.replcas"' in said
    warned = kubectl("apply", "--validate=warn", "-f", "-", stdin=yaml.safe_dump(wrong))
    assert 'Warning: unknown field "spec.replcas"' in warned and "created" in warned
