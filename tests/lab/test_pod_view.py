"""What a container of Drillbook's sees: its volumes at their paths, a root that it can't write to, its account."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fix_lab import until

from drillbook_lab import names
from drillbook_lab.api import cnpg_registry
from drillbook_lab.api.token_requests import looks_up
from drillbook_lab.api.tokens import TokenDirectory
from drillbook_lab.node.pod_programs import command_line
from drillbook_lab.node.pod_view import ACCOUNT_PATH, PodView, access_to, lay_out
from drillbook_lab.node.processes import processes_under
from drillbook_lab.operator.places import NotReadyYet, PodPlaces

apart = pytest.mark.skipif(not names.available(), reason="a process may not have a mount namespace of its own here")
CONTAINER: dict[str, Any] = {
    "name": "main",
    "image": "x",
    "command": ["drillbook", "exporter", "--listen", "0.0.0.0:9477"],
    "securityContext": {"readOnlyRootFilesystem": True},
    "volumeMounts": [
        {"name": "site", "mountPath": "/etc/drillbook", "readOnly": True},
        {"name": "evidence", "mountPath": "/evidence"},
        {"name": "scratch", "mountPath": "/tmp"},
        {"name": "token", "mountPath": "/token", "readOnly": True},
    ],
}
VOLUMES: list[dict[str, Any]] = [
    {"name": "site", "configMap": {"name": "profile"}},
    {"name": "evidence", "persistentVolumeClaim": {"claimName": "evidence"}},
    {"name": "scratch", "emptyDir": {}},
    {"name": "token", "secret": {"secretName": "token"}},
]


class Node:
    """A registry, a pod in it, and the pod's places on this machine."""

    def __init__(self, folder: Path) -> None:
        self.registry = cnpg_registry()
        self.tokens = TokenDirectory()
        run_dir, volume = folder / "pod", folder / "volume"
        run_dir.mkdir()
        volume.mkdir()
        self.places = PodPlaces(run_dir, run_dir, "127.90.0.9", {"evidence": volume})
        self._made("ConfigMap", "profile", data={"site.yaml": "name: x\n"})
        self._made("Secret", "token", stringData={"token": "planted"})
        self._made("ServiceAccount", "checker")
        spec = {"serviceAccountName": "checker", "containers": [CONTAINER], "volumes": VOLUMES}
        self.pod = self._made("Pod", "p", spec=spec)

    def _made(self, kind: str, name: str, **content: Any) -> dict[str, Any]:
        meta = {"name": name, "namespace": "default"}
        return self.registry.create({"apiVersion": "v1", "kind": kind, "metadata": meta, **content})

    def view(self) -> PodView:
        access = access_to(self.registry, self.tokens, "https://127.0.0.1:6443", "an authority")
        return lay_out(self.registry, self.pod, self.places, access, [])


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def said(view: PodView, *command: str) -> str:
    """What a command in the container prints."""
    return subprocess.run(view.command(command), capture_output=True, text=True, check=False).stdout


@apart
def test_volumes_lie_where_they_are_mounted_and_only_they_can_be_written(node: Node) -> None:
    view = node.view()
    assert said(view, "cat", "/etc/drillbook/site.yaml", "/token/token") == "name: x\nplanted"
    for place, writable in {"/evidence": 1, "/tmp": 1, "/etc/drillbook": 0, "/token": 0, "/": 0, "/usr": 0}.items():
        done = said(view, "sh", "-c", f"touch {place}/new && echo written")
        assert done == ("written\n" if writable else ""), place
    assert (node.places.volumes["evidence"] / "new").is_file() and not Path("/tmp/new").exists()
    assert said(view, "cat", "/etc/passwd") == Path("/etc/passwd").read_text(), "what an image would have is there"
    assert not Path("/evidence").exists() and not Path("/etc/drillbook").exists(), "the machine has none of it"


@apart
def test_a_root_that_is_not_to_be_read_only_is_not(node: Node) -> None:
    assert "tmpfs / tmpfs ro" in said(node.view(), "cat", "/proc/mounts")
    del node.pod["spec"]["containers"][0]["securityContext"]
    assert "tmpfs / tmpfs rw" in said(node.view(), "cat", "/proc/mounts")


@apart
def test_an_installation_below_a_volume_is_still_there(node: Node, tmp_path: Path) -> None:
    (scratch,) = [one for one in node.pod["spec"]["containers"][0]["volumeMounts"] if one["name"] == "scratch"]
    scratch["mountPath"] = str(tmp_path)  # as the pod's own /tmp hides a checkout in the machine's
    installed = tmp_path / "installed"
    installed.mkdir()
    (installed / "program").write_text("here")
    view = lay_out(node.registry, node.pod, node.places, None, [installed])
    assert said(view, "cat", str(installed / "program")) == "here"
    assert said(view, "ls", str(tmp_path)).split() == ["installed", "pod"]


@apart
def test_its_processes_are_found_by_where_they_work_and_end_with_who_started_them(node: Node) -> None:
    def at_work() -> list[int]:
        return processes_under([node.places.run_dir])

    # One of them leaves the session of the first, as a notebook's kernel does.
    argv = node.view().command(["sh", "-c", "setsid sleep 600 & exec sleep 600"])
    tied = f"from drillbook_lab.node.processes import dies_with_parent; p = subprocess.Popen({argv!r}, preexec_fn=dies_with_parent())"
    starter = f"import subprocess; {tied}; p.wait()"
    with subprocess.Popen([sys.executable, "-c", starter]) as parent:
        until(lambda: sum(Path(f"/proc/{pid}/comm").read_text() == "sleep\n" for pid in at_work()) == 2)
        parent.kill()
    until(lambda: not at_work())


@apart
def test_it_ends_by_a_signal_and_as_its_command_does(node: Node) -> None:
    assert subprocess.run(node.view().command(["sh", "-c", "exit 4"]), check=False).returncode == 4
    argv = node.view().command(["sh", "-c", "trap 'exit 7' TERM; echo begun; while :; do sleep 0.05; done"])
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None and running.stdout.readline() == "begun\n"
        running.terminate()
        assert running.wait(30) == 7


def test_its_account_is_who_it_is_until_the_pod_is_gone(node: Node) -> None:
    view = node.view()
    assert view.env == {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "6443"}
    (mount,) = [one for one in view.mounts if one.target == ACCOUNT_PATH]
    token, exists = (Path(mount.source) / "token").read_text(), looks_up(node.registry)
    holder = node.tokens.holder(token, exists)
    assert holder is not None and holder.name == "system:serviceaccount:default:checker"
    assert holder.extra["authentication.kubernetes.io/pod-name"] == ["p"]
    node.pod["spec"]["automountServiceAccountToken"] = False
    assert ACCOUNT_PATH not in {one.target for one in node.view().mounts}
    node.registry.delete("Pod", "default", "p")
    assert node.tokens.holder(token, exists) is None


def test_without_a_mount_namespace_the_volumes_are_named_where_they_are(node: Node) -> None:
    view = node.view()
    declared = {"DRILLBOOK_OUTPUTS": "/evidence", "HOME": "/tmp", "OTHER": "/evidences"}
    outside = view.outside(declared)
    assert outside["DRILLBOOK_OUTPUTS"] == str(node.places.volumes["evidence"]) and outside["OTHER"] == "/evidences"
    assert Path(outside["HOME"]).is_dir() and "checker" not in outside["KUBECONFIG"]
    assert Path(outside["KUBECONFIG"]).is_file()


@pytest.mark.parametrize(
    ("volume", "said"),
    [
        ({"name": "site", "configMap": {"name": "nobody"}}, 'configmap "nobody" not found'),
        ({"name": "site", "secret": {"secretName": "nobody"}}, 'secret "nobody" not found'),
        ({"name": "site", "hostPath": {"path": "/"}}, "can't mount volume site"),
    ],
)
def test_what_is_missing_is_said_and_waited_for(node: Node, volume: dict[str, Any], said: str) -> None:
    node.pod["spec"]["volumes"] = [volume, *VOLUMES[1:]]
    with pytest.raises(NotReadyYet, match=said):
        node.view()


def test_every_address_of_the_pod_is_its_one_address(node: Node) -> None:
    argv = command_line(CONTAINER, node.places)
    assert argv[1:] == ["-m", "drillbook", "exporter", "--listen", "127.90.0.9:9477"]
