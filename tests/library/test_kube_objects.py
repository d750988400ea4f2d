"""Objects: strict creation, reading, patching, deleting, and what errors say."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from tests.lab.fix_apiserver import Api, cluster
from tests.library.fix_kube import config_map

from drillbook import kube as k8s
from drillbook.errors import Changed, KubernetesError, ParameterError
from drillbook.kube import Kube


def test_the_api_server_says_who_we_are(api: Api, kube: Kube) -> None:
    """The actor is the API server's own answer, not the kubeconfig's."""
    actor = kube.whoami()
    assert (actor.username, actor.strength) == ("lab-admin", "api")
    assert "system:masters" in actor.groups
    with Kube.open(str(api.kubeconfig), "lab") as drill:
        assert drill.whoami().username == "system:serviceaccount:drillbook:drillbook"


def test_rights_are_asked_of_the_api_server(api: Api, kube: Kube) -> None:
    """A ServiceAccount without any role may do nothing."""
    assert kube.can_i("create", k8s.POD, subresource="exec", namespace="default")
    with Kube.open(str(api.kubeconfig), "lab") as drill:
        assert not drill.can_i("create", k8s.POD, subresource="exec", namespace="default")
        with pytest.raises(KubernetesError) as denied:
            drill.list(k8s.SECRET, "default")
    assert (denied.value.status, denied.value.reason) == (403, "Forbidden")
    assert "system:serviceaccount:drillbook:drillbook" in denied.value.what
    assert "deploy/rbac" in denied.value.todo
    assert denied.value.changed is Changed.NOTHING


def test_an_unknown_field_is_refused_by_name(kube: Kube) -> None:
    """Every creation is validated strictly: a misspelt field is an error, not silence."""
    wrong = cluster("misspelt", storageClas="fast")
    with pytest.raises(KubernetesError) as refused:
        kube.create(wrong, dry_run=True)
    assert 'unknown field "spec.storageClas"' in refused.value.what
    assert refused.value.what.startswith("create Cluster default/misspelt: ")
    assert refused.value.status == 400
    with pytest.raises(KubernetesError, match="unknown field"):
        kube.create(wrong)
    assert kube.get(k8s.CLUSTER, "default", "misspelt") is None


def test_a_dry_run_is_judged_and_not_stored(kube: Kube) -> None:
    """The dry run returns the object with its defaults and leaves nothing behind."""
    seen = kube.create(cluster("dry"), dry_run=True)
    assert seen["metadata"]["uid"]
    assert kube.get(k8s.CLUSTER, "default", "dry") is None


def test_create_read_patch_list(kube: Kube) -> None:
    """The round of an object's life; items of a list know their kind."""
    made = kube.create(config_map("round", colour="red"))
    assert kube.get(k8s.CONFIG_MAP, "default", "round") == made
    kube.patch(
        k8s.CONFIG_MAP, "default", "round", {"metadata": {"labels": {"test": "round"}}, "data": {"colour": None}}
    )
    (found,) = kube.list(k8s.CONFIG_MAP, "default", labels="test=round")
    assert found["kind"] == "ConfigMap"
    assert found == kube.get(k8s.CONFIG_MAP, "default", "round")
    assert "data" not in found or not found["data"]
    assert kube.list(k8s.CONFIG_MAP, "default", fields="metadata.name=nowhere") == []


def test_a_patch_with_an_old_version_is_a_conflict(kube: Kube) -> None:
    """Given a resource version, a patch is a compare-and-swap."""
    made = kube.create(config_map("swap", a="1"))
    version = made["metadata"]["resourceVersion"]
    kube.patch(k8s.CONFIG_MAP, "default", "swap", {"metadata": {"resourceVersion": version}, "data": {"a": "2"}})
    with pytest.raises(KubernetesError) as conflict:
        kube.patch(k8s.CONFIG_MAP, "default", "swap", {"metadata": {"resourceVersion": version}, "data": {"a": "3"}})
    assert (conflict.value.status, conflict.value.reason) == (409, "Conflict")


def test_what_does_not_exist_is_none(kube: Kube) -> None:
    """404 is an answer for an object, but an error for a kind or a namespace's Secret."""
    assert kube.get(k8s.CLUSTER, "default", "nowhere") is None
    assert kube.get(k8s.STORAGE_CLASS, "", "nowhere") is None
    with pytest.raises(KubernetesError, match="could not find the requested resource"):
        kube.get(k8s.Kind("example.org", "v1", "Gadget", "gadgets"), "default", "x")
    with pytest.raises(KubernetesError, match=r'read Secret default/nowhere: secrets "nowhere" not found'):
        kube.secret("default", "nowhere")


def test_only_the_object_that_is_meant_is_deleted(kube: Kube) -> None:
    """The UID is a precondition: an object of the same name that someone else made stays."""
    first = kube.create(config_map("same-name"))["metadata"]["uid"]
    kube.delete(k8s.CONFIG_MAP, "default", "same-name", uid=first)
    kube.delete(k8s.CONFIG_MAP, "default", "same-name", uid=first)  # gone already is fine
    second = kube.create(config_map("same-name"))["metadata"]["uid"]
    with pytest.raises(KubernetesError) as other:
        kube.delete(k8s.CONFIG_MAP, "default", "same-name", uid=first)
    assert other.value.status == 409
    assert "UID in precondition" in other.value.what
    found = kube.get(k8s.CONFIG_MAP, "default", "same-name")
    assert found is not None and found["metadata"]["uid"] == second
    with pytest.raises(ValueError, match="UID"):
        kube.delete(k8s.CONFIG_MAP, "default", "same-name", uid="")


def test_secrets_are_decoded_registered_and_kept_out_of_errors(api: Api) -> None:
    """A password that was read once shows in no later error, plain or in base64; a user name may."""
    told: list[str] = []
    with Kube.open(str(api.kubeconfig), "lab-admin", mask=told.append) as kube:
        kube.create(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "login", "namespace": "default"},
                "stringData": {"username": "drillbook", "password": "hunter2 & more"},
            }
        )
        assert kube.secret("default", "login") == {"username": "drillbook", "password": "hunter2 & more"}
        assert "hunter2 & more" in told
        assert "drillbook" not in told
        assert "admin-token" in told  # the bearer token is a secret as well
        with pytest.raises(KubernetesError) as refused:
            kube.create(cluster("leak", **{"hunter2 & more": 1, "drillbook": 2}))
        assert "***" in refused.value.what
        assert "hunter2" not in refused.value.what
        assert '"spec.drillbook"' in refused.value.what
        encoded = base64.b64encode(b"hunter2 & more").decode()
        with pytest.raises(KubernetesError) as again:
            kube.create(cluster("leak", **{encoded: 1}))
        assert encoded not in again.value.what


def test_a_wrong_token_is_told_as_such(api: Api, tmp_path: Path) -> None:
    """401 says what to do, and the token itself is not in the message."""
    config = tmp_path / "kubeconfig"
    config.write_text(api.kubeconfig.read_text().replace("admin-token", "stolen-token"))
    with Kube.open(str(config), "lab-admin") as kube, pytest.raises(KubernetesError) as refused:
        kube.get(k8s.POD, "default", "x")
    assert refused.value.status == 401
    assert "Log in again" in refused.value.todo
    assert "stolen" not in refused.value.what


def test_an_unusable_kubeconfig_is_a_parameter_error(api: Api, tmp_path: Path) -> None:
    """A missing file, a missing context and text that is no kubeconfig are reported before anything is asked."""
    broken = tmp_path / "broken"
    broken.write_text("just words")
    for path, context in ((str(tmp_path / "none"), ""), (str(api.kubeconfig), "moon"), (str(broken), "")):
        with pytest.raises(ParameterError) as fault:
            Kube.open(path, context)
        assert fault.value.exit_code == 4


def test_the_environment_names_the_kubeconfig(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a profile's kubeconfig $KUBECONFIG is read when the client is opened, with its current context."""
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig))
    with Kube.open() as kube:
        assert kube.whoami().username == "lab-admin"


def test_no_server_is_no_answer(api: Api, tmp_path: Path) -> None:
    """A refused connection has carried nothing: neither a read nor a change was done."""
    config = tmp_path / "kubeconfig"
    config.write_text(api.kubeconfig.read_text().replace(f":{api.serving.port}", ":9"))
    with Kube.open(str(config), "lab-admin") as kube:
        with pytest.raises(KubernetesError, match=r"no answer from 127\.0\.0\.1:9: Connection refused") as read:
            kube.get(k8s.POD, "default", "x")
        with pytest.raises(KubernetesError) as create:
            kube.create(config_map("lost"))
    assert (read.value.status, read.value.changed) == (0, Changed.NOTHING)
    assert create.value.changed is Changed.NOTHING


def test_an_untrusted_certificate_is_refused(api: Api, tmp_path: Path) -> None:
    """The kubeconfig's own authority decides, for requests and for streams."""
    config = tmp_path / "kubeconfig"
    lines = api.kubeconfig.read_text().splitlines()
    config.write_text("\n".join(line for line in lines if "certificate-authority-data" not in line))
    with Kube.open(str(config), "lab-admin") as kube:
        with pytest.raises(KubernetesError, match="TLS: "):
            kube.server_version()
        with pytest.raises(KubernetesError, match="certificate"):
            kube.exec("default", "x", "main", ["true"], timeout_seconds=10)


def test_version_and_clock(kube: Kube) -> None:
    """The API server's version and clock; on one machine the clocks agree."""
    assert kube.server_version().startswith("v1.")
    offset = kube.api_time_offset_seconds()
    assert offset is not None and abs(offset) < 30


def test_an_unknown_kind_is_a_programming_error(kube: Kube) -> None:
    """Runbooks send only kinds that they know."""
    with pytest.raises(LookupError, match="v1 Gadget"):
        kube.create({"apiVersion": "v1", "kind": "Gadget", "metadata": {"name": "x"}})


class _Gateway(http.server.BaseHTTPRequestHandler):
    """A proxy's error pages in front of an API server that is away, then an answer."""

    answers: ClassVar[list[tuple[int, str]]] = []

    def _answer(self) -> None:
        code, body = self.answers.pop(0)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    do_GET = do_POST = _answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Kube]:
    """A client of a server that gives the answers of ``_Gateway``."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Gateway)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    config = tmp_path / "kubeconfig"
    config.write_text(
        json.dumps(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_address[1]}"}}],
                "users": [{"name": "u", "user": {"token": "gateway-token"}}],
            }
        )
    )
    with Kube.open(str(config), patience_seconds=1.0) as client:
        yield client
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_body_that_is_no_status_is_not_shown(gateway: Kube) -> None:
    """A gateway's page may hold anything: only the code is reported, and a change may have happened."""
    _Gateway.answers = [(502, "<html>the password is hunter2</html>")] * 40
    with pytest.raises(KubernetesError) as error:
        gateway.create(config_map("x"))
    assert "hunter2" not in error.value.what
    assert "HTTP 502" in error.value.what
    assert error.value.changed is Changed.UNKNOWN
    status = {"kind": "Status", "message": "m" * 2000, "reason": "Invalid"}
    _Gateway.answers = [(422, json.dumps(status))]
    with pytest.raises(KubernetesError) as long:
        gateway.create(config_map("x"))
    assert long.value.what.count("m") <= 257


def test_a_read_is_tried_again_while_the_server_is_busy(gateway: Kube) -> None:
    """Reads survive a short outage; a creation that may not be done twice is sent once."""
    _Gateway.answers = [(503, "busy"), (429, "busy"), (200, json.dumps({"gitVersion": "v1.99.0"}))]
    assert gateway.server_version() == "v1.99.0"
    _Gateway.answers = [(503, "busy"), (201, "{}")]
    with pytest.raises(KubernetesError, match="HTTP 503"):  # it may have been done, and has no name to recognise it by
        gateway.create(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "x-", "namespace": "default"}}
        )
    assert len(_Gateway.answers) == 1
