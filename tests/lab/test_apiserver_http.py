"""The wire: authentication, roles, the audit log, watches, and the official Python client."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fix_apiserver import ADMIN, DRILL, Api, cleanly, cluster
from kubernetes import client, config, watch

from drillbook_lab.api import cnpg_registry, write_kubeconfig

Object = dict[str, Any]

CLUSTERS = "/apis/postgresql.cnpg.io/v1/namespaces/default/clusters"
PODS = "/api/v1/namespaces/default/pods"


class Answer:
    """What came back."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Object:
        loaded: Object = json.loads(self.body)
        return loaded


def ask(
    api: Api,
    method: str,
    path: str,
    body: Any = None,
    *,
    token: str = ADMIN,
    form: str = "application/json",
    accept: str = "application/json",
) -> Answer:
    """One request over TLS, trusting only the server's own authority."""

    async def go() -> Answer:
        trust = ssl.create_default_context(cafile=str(api.serving.tls.ca))
        headers = {"Authorization": f"Bearer {token}", "Accept": accept, "Content-Type": form}
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, api.url + path, data=data, headers=headers, ssl=trust) as response,
        ):
            return Answer(response.status, response.headers, await response.read())

    return asyncio.run(cleanly(go()))


@pytest.fixture
def core(api: Api) -> Iterator[client.CoreV1Api]:
    """The official client as `lab-admin`."""
    with config.new_client_from_config(str(api.kubeconfig), context="lab-admin") as connection:
        yield client.CoreV1Api(connection)


# -- who and what ----------------------------------------------------------------------------


def test_no_token_no_answer(api: Api) -> None:
    said = ask(api, "GET", PODS, token="guessed")
    assert (said.status, said.json["reason"]) == (401, "Unauthorized")
    assert ask(api, "GET", "/version", token="guessed").json["gitVersion"].startswith("v1.34")


def test_nothing_is_allowed_without_a_role(api: Api) -> None:
    said = ask(api, "GET", CLUSTERS + "/orders", token=DRILL)
    assert said.status == 403
    assert said.json["message"] == (
        'clusters.postgresql.cnpg.io "orders" is forbidden: User "system:serviceaccount:drillbook:drillbook" cannot '
        'get resource "clusters" in API group "postgresql.cnpg.io" in the namespace "default"'
    )


def grant(api: Api, *rules: Object, cluster_wide: bool = False) -> None:
    kind = "ClusterRole" if cluster_wide else "Role"
    place = {} if cluster_wide else {"namespace": "default"}
    group = "rbac.authorization.k8s.io"
    api.do(
        api.registry.create,
        {"apiVersion": f"{group}/v1", "kind": kind, "metadata": {"name": "r", **place}, "rules": list(rules)},
    )
    api.do(
        api.registry.create,
        {
            "apiVersion": f"{group}/v1",
            "kind": f"{kind}Binding",
            "metadata": {"name": "b", **place},
            "roleRef": {"apiGroup": group, "kind": kind, "name": "r"},
            "subjects": [{"kind": "ServiceAccount", "namespace": "drillbook", "name": "drillbook"}],
        },
    )


def test_roles_are_evaluated_to_the_name_and_the_subresource(api: Api) -> None:
    grant(
        api,
        {
            "apiGroups": ["postgresql.cnpg.io"],
            "resources": ["clusters"],
            "verbs": ["get", "patch"],
            "resourceNames": ["orders"],
        },
        {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]},
    )
    api.do(api.registry.create, cluster())
    api.do(api.registry.create, cluster("other"))
    api.pod("p", log=b"line\n")
    codes = {
        (method, path): ask(
            api, method, path, {} if method == "PATCH" else None, token=DRILL, form="application/merge-patch+json"
        ).status
        for method, path in [
            ("GET", CLUSTERS + "/orders"),
            ("GET", CLUSTERS + "/other"),
            ("GET", CLUSTERS),
            ("GET", CLUSTERS + "?fieldSelector=metadata.name=orders"),
            ("PATCH", CLUSTERS + "/orders"),
            ("PATCH", CLUSTERS + "/orders/status"),
            ("DELETE", CLUSTERS + "/orders"),
            ("GET", PODS + "/p/log"),
            ("GET", PODS + "/p/exec?command=id&stdout=1"),
            ("GET", "/api/v1/namespaces/kube-system/pods"),
        ]
    }
    assert list(codes.values()) == [200, 403, 403, 403, 200, 403, 403, 200, 403, 403], codes


def test_cluster_roles_reach_every_namespace(api: Api) -> None:
    grant(api, {"apiGroups": ["*"], "resources": ["*/status", "secrets"], "verbs": ["*"]}, cluster_wide=True)
    api.do(api.registry.create, cluster())
    assert ask(api, "GET", "/api/v1/secrets", token=DRILL).status == 200
    assert ask(api, "GET", CLUSTERS + "/orders/status", token=DRILL).status == 200
    assert ask(api, "GET", CLUSTERS + "/orders", token=DRILL).status == 403


def test_reviews_answer_for_the_caller(api: Api) -> None:
    who = ask(api, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {}, token=DRILL)
    assert who.status == 201
    info = who.json["status"]["userInfo"]
    assert info["username"] == "system:serviceaccount:drillbook:drillbook"
    assert "system:serviceaccounts:drillbook" in info["groups"]
    grant(api, {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]})
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"

    def may(verb: str) -> bool:
        asked = {"spec": {"resourceAttributes": {"namespace": "default", "verb": verb, "resource": "secrets"}}}
        return bool(ask(api, "POST", path, asked, token=DRILL).json["status"]["allowed"])

    assert (may("get"), may("delete")) == (True, False)


def test_the_audit_log_tells_who_did_what_and_what_was_only_tried(api: Api) -> None:
    ask(api, "POST", CLUSTERS + "?dryRun=All", cluster())
    ask(api, "POST", CLUSTERS, cluster())
    ask(api, "DELETE", CLUSTERS + "/orders", {"dryRun": ["All"]})
    ask(api, "DELETE", CLUSTERS + "/orders", token=DRILL)
    lines = [{k: v for k, v in line.items() if k not in ("ts", "user", "group")} for line in api.audited()]
    common = {"resource": "clusters", "subresource": "", "namespace": "default"}
    assert lines == [
        {**common, "verb": "create", "name": "", "dry_run": True, "code": 201},
        {**common, "verb": "create", "name": "", "dry_run": False, "code": 201},
        {**common, "verb": "delete", "name": "orders", "dry_run": True, "code": 200},
        {**common, "verb": "delete", "name": "orders", "dry_run": False, "code": 403},
    ]
    assert api.audited()[-1]["user"] == "system:serviceaccount:drillbook:drillbook"
    assert len(api.do(api.registry.list, "Cluster")) == 1


# -- requests --------------------------------------------------------------------------------


def test_field_validation_by_query(api: Api) -> None:
    wrong = cluster(recovery={})
    strict = ask(api, "POST", CLUSTERS + "?fieldValidation=Strict", wrong)
    assert strict.status == 400 and 'strict decoding error: unknown field "spec.recovery"' in strict.json["message"]
    warned = ask(api, "POST", CLUSTERS + "?fieldValidation=Warn", wrong)
    assert warned.status == 201 and warned.headers["Warning"] == r'299 - "unknown field \"spec.recovery\""'
    ignored = ask(api, "POST", CLUSTERS + "?fieldValidation=Ignore", {**wrong, "metadata": {"name": "other"}})
    assert ignored.status == 201 and "Warning" not in ignored.headers


def test_bodies_and_paths_must_agree(api: Api) -> None:
    elsewhere = {**cluster(), "metadata": {"name": "orders", "namespace": "kube-system"}}
    assert ask(api, "POST", CLUSTERS, elsewhere).status == 400
    assert ask(api, "POST", CLUSTERS, {**cluster(), "kind": "Backup"}).status == 400
    assert ask(api, "POST", CLUSTERS, b"{not json").status == 400
    assert ask(api, "POST", CLUSTERS, b"k8s\x00junk", form="application/vnd.kubernetes.protobuf").status == 415
    unnamed = ask(api, "PATCH", CLUSTERS + "/orders", {}, form="application/apply-patch+yaml")
    assert unnamed.status == 422  # an apply says who applies
    assert ask(api, "PATCH", CLUSTERS + "/orders", {}, form="application/strange-patch+json").status == 415
    assert ask(api, "PUT", CLUSTERS + "/orders", cluster()).status == 422
    assert ask(api, "GET", "/apis/postgresql.cnpg.io/v1/unicorns").status == 404
    assert ask(api, "GET", "/apis/nobody.io/v1").status == 404


def test_put_needs_the_version_that_was_read(api: Api) -> None:
    made = ask(api, "POST", CLUSTERS, cluster()).json
    made["spec"]["instances"] = 2
    changed = ask(api, "PUT", CLUSTERS + "/orders", made)
    assert changed.status == 200 and changed.json["metadata"]["generation"] == 2
    again = ask(api, "PUT", CLUSTERS + "/orders", made)
    assert (again.status, again.json["reason"]) == (409, "Conflict")


def test_a_collection_can_be_deleted_by_label(api: Api) -> None:
    for name, label in (("a", "x"), ("b", "x"), ("c", "y")):
        made = cluster(name)
        made["metadata"]["labels"] = {"run": label}
        ask(api, "POST", CLUSTERS, made)
    assert ask(api, "DELETE", CLUSTERS + "?labelSelector=run%3Dx").status == 200
    assert [o["metadata"]["name"] for o in ask(api, "GET", CLUSTERS).json["items"]] == ["c"]


# -- watches ---------------------------------------------------------------------------------


def events(api: Api, query: str) -> list[Object]:
    """A watch that ends by its own time limit."""
    body = ask(api, "GET", f"{CLUSTERS}?watch=true&timeoutSeconds=1{query}").body
    return [json.loads(line) for line in body.splitlines()]


def test_a_watch_gives_what_is_there_then_ends_in_time(api: Api) -> None:
    api.do(api.registry.create, cluster())
    seen = events(api, "&allowWatchBookmarks=true")
    assert [event["type"] for event in seen] == ["ADDED", "BOOKMARK"]
    assert seen[-1]["object"]["metadata"]["resourceVersion"] == str(api.registry.version)


def test_a_watch_goes_on_from_a_version(api: Api) -> None:
    api.do(api.registry.create, cluster())
    version = api.registry.version
    api.do(api.registry.create, cluster("other"))
    api.do(api.registry.delete, "Cluster", "default", "orders")
    seen = events(api, f"&resourceVersion={version}")
    assert [(e["type"], e["object"]["metadata"]["name"]) for e in seen] == [("ADDED", "other"), ("DELETED", "orders")]
    assert events(api, f"&resourceVersion={version}&fieldSelector=metadata.name%3Dother")[0]["type"] == "ADDED"


def test_a_watch_from_a_forgotten_version_says_so(tmp_path: Path) -> None:
    api = Api(tmp_path, cnpg_registry(history=4))
    api.start()
    try:
        (error,) = events(api, "&resourceVersion=1")
    finally:
        api.stop()
    assert error["type"] == "ERROR"
    assert (error["object"]["code"], error["object"]["reason"]) == (410, "Expired")


def test_initial_events_on_request_are_not_offered(api: Api) -> None:
    said = ask(api, "GET", f"{CLUSTERS}?watch=true&sendInitialEvents=true")
    assert said.status == 422


# -- the official client ---------------------------------------------------------------------


def test_the_official_client_round_trip(api: Api, core: client.CoreV1Api) -> None:
    custom = client.CustomObjectsApi(core.api_client)
    where = ("postgresql.cnpg.io", "v1", "default", "clusters")
    made = custom.create_namespaced_custom_object(*where, cluster(), field_validation="Strict")
    assert made["spec"]["instances"] == 1
    custom.patch_namespaced_custom_object_status(*where, "orders", {"status": {"phase": "Setting up primary"}})
    assert custom.get_namespaced_custom_object(*where, "orders")["status"]["phase"] == "Setting up primary"
    assert len(custom.list_namespaced_custom_object(*where)["items"]) == 1
    with pytest.raises(client.ApiException) as refused:
        custom.create_namespaced_custom_object(*where, cluster())
    assert refused.value.status == 409
    custom.delete_namespaced_custom_object(*where, "orders")
    assert custom.list_namespaced_custom_object(*where)["items"] == []


def test_the_official_client_reads_typed_objects(api: Api, core: client.CoreV1Api) -> None:
    body = client.V1Secret(metadata=client.V1ObjectMeta(name="s"), string_data={"a": "b"})
    assert core.create_namespaced_secret("default", body).data == {"a": "Yg=="}
    assert [s.metadata.name for s in core.list_namespaced_secret("default").items] == ["s"]
    core.delete_namespaced_secret("s", "default")
    lease = client.V1Lease(metadata=client.V1ObjectMeta(name="l"), spec=client.V1LeaseSpec(holder_identity="me"))
    leases = client.CoordinationV1Api(core.api_client)
    made = leases.create_namespaced_lease("default", lease)
    made.spec.holder_identity = "you"
    assert leases.replace_namespaced_lease("l", "default", made).spec.holder_identity == "you"
    with pytest.raises(client.ApiException) as refused:
        leases.replace_namespaced_lease("l", "default", made)
    assert refused.value.status == 409
    api.pod("p", log=b"one\ntwo\n")
    assert core.read_namespaced_pod("p", "default").status.phase == "Running"
    assert core.read_namespaced_pod_log("p", "default", tail_lines=1) == "two\n"
    core.delete_namespaced_pod("p", "default")


def test_the_official_client_watches(api: Api, core: client.CoreV1Api) -> None:
    seen: list[tuple[str, str]] = []
    started = threading.Event()

    def follow() -> None:
        for event in watch.Watch().stream(core.list_namespaced_config_map, "default", timeout_seconds=30):
            seen.append((event["type"], event["object"].metadata.name))
            started.set()
            if event["type"] == "DELETED":
                return

    core.create_namespaced_config_map("default", client.V1ConfigMap(metadata=client.V1ObjectMeta(name="c")))
    following = threading.Thread(target=follow)
    following.start()
    assert started.wait(30)
    core.patch_namespaced_config_map("c", "default", {"data": {"a": "1"}})
    core.delete_namespaced_config_map("c", "default")
    following.join(30)
    assert seen == [("ADDED", "c"), ("MODIFIED", "c"), ("DELETED", "c")]


def test_racing_writers_lose_no_change(api: Api, core: client.CoreV1Api) -> None:
    core.create_namespaced_config_map(
        "default", client.V1ConfigMap(metadata=client.V1ObjectMeta(name="c"), data={"n": "0"})
    )

    def count() -> None:
        for _ in range(10):
            while True:
                read = core.read_namespaced_config_map("c", "default")
                read.data["n"] = str(int(read.data["n"]) + 1)
                try:
                    core.replace_namespaced_config_map("c", "default", read)
                    break
                except client.ApiException as error:
                    assert error.status == 409

    writers = [threading.Thread(target=count) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert api.do(api.registry.get, "ConfigMap", "default", "c")["data"] == {"n": "40"}


def test_a_kubeconfig_is_for_its_owner_alone(api: Api) -> None:
    assert api.kubeconfig.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ValueError, match="none of the contexts"):
        write_kubeconfig(api.kubeconfig, api.url, "", {"a": "b"}, "c")
