"""What a container finds in its files and environment because of its pod: volumes, its account's token, the API's address.

Where a process may not have its own mount namespace, a mount path doesn't exist: then environment and command name the
volume's folder on this machine in its place, and a kubeconfig stands for the account's files.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import drillbook_lab
from drillbook_lab import names
from drillbook_lab.api.errors import ApiError, Object
from drillbook_lab.api.kubeconfig import write_kubeconfig
from drillbook_lab.api.registry import Registry
from drillbook_lab.api.token_requests import answer
from drillbook_lab.api.tokens import TokenDirectory
from drillbook_lab.operator.places import NotReadyYet, PodPlaces, pod_role

ACCOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
_TOKEN_SECONDS = 365 * 24 * 3600
_ACCOUNT = "account"  # its folder next to the volumes'


@dataclass(frozen=True)
class ApiAccess:
    """How a pod reaches the API server: its address, its authority, and a token for the pod's account."""

    host: str
    port: int
    authority: str
    token: Callable[[Object], str]
    """`ApiError` if the account isn't there."""


def access_to(registry: Registry, tokens: TokenDirectory, url: str, authority: str) -> ApiAccess:
    """By tokens that end with their pod. The kubelet's are of an hour, which the API server makes a year."""
    address = urlsplit(url)

    def token(pod: Object) -> str:
        meta, account = pod["metadata"], pod["spec"].get("serviceAccountName", "default")
        bound = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}
        request = {"spec": {"expirationSeconds": _TOKEN_SECONDS, "boundObjectRef": bound}}
        return str(answer(registry, tokens, meta["namespace"], account, request)["status"]["token"])

    return ApiAccess(address.hostname or "", address.port or 443, authority, token)


@dataclass(frozen=True)
class Mount:
    """A folder of this machine, and where the container sees it."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class PodView:
    """One container's view; the empty one is the machine's own."""

    folder: Path = Path()
    mounts: tuple[Mount, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command line that starts a program with this view."""
        if not self.mounts:
            return list(argv)
        if names.available():
            return [sys.executable, "-m", "drillbook_lab.node.container", str(self.folder / "view.json"), "--", *argv]
        return [self._outside(part) for part in argv]

    def variables(self, declared: Mapping[str, str]) -> dict[str, str]:
        """The environment that the container's spec declares, and what comes with the pod."""
        found = {**self.env, **declared}
        return found if not self.mounts or names.available() else self.outside(found)

    def outside(self, env: Mapping[str, str]) -> dict[str, str]:
        """The same environment, where the mount paths aren't there."""
        found = {name: self._outside(value) for name, value in env.items()}
        own = self.folder / "kubeconfig"
        return {**found, "KUBECONFIG": str(own)} if own.exists() else found

    def _outside(self, text: str) -> str:
        for mount in self.mounts:
            if text == mount.target or text.startswith(f"{mount.target}/"):
                return mount.source + text.removeprefix(mount.target)
        return text


def lay_out(
    registry: Registry, pod: Object, places: PodPlaces, access: ApiAccess | None, image: Sequence[Path]
) -> PodView:
    """Write the volumes' files; `NotReadyYet` says what is missing. `image`: what stays visible below any volume."""
    container = pod["spec"]["containers"][0]
    if pod_role(pod) or not container.get("volumeMounts"):
        return PodView()
    folder = places.run_dir / "view"
    volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes") or ()}
    mounts = []
    for asked in container["volumeMounts"]:
        source = _source(registry, pod, volumes.get(asked["name"]) or {"name": asked["name"]}, places, folder)
        mounts.append(Mount(str(source), asked["mountPath"].rstrip("/"), bool(asked.get("readOnly"))))
    env = {}
    if access is not None:
        env = {"KUBERNETES_SERVICE_HOST": access.host, "KUBERNETES_SERVICE_PORT": str(access.port)}
        if _write_account(pod, access, folder):
            mounts.append(Mount(str(folder / _ACCOUNT), ACCOUNT_PATH, read_only=True))
    (folder / "root").mkdir(parents=True, exist_ok=True)
    view = {
        "root": str(folder / "root"),
        "cwd": str(places.run_dir),
        "mounts": [asdict(mount) for mount in mounts],
        "read_only": bool((container.get("securityContext") or {}).get("readOnlyRootFilesystem")),
        "image": [str(path) for path in (*_installation(), *image, places.run_dir)],
    }
    (folder / "view.json").write_text(json.dumps(view), encoding="utf-8")
    return PodView(folder, tuple(mounts), env)


def _installation() -> list[Path]:
    """What an image of Drillbook would hold."""
    checkout = Path(drillbook_lab.__file__).resolve().parents[2]
    return [Path(sys.base_prefix), Path(sys.prefix), checkout]


def _source(registry: Registry, pod: Object, volume: Object, places: PodPlaces, folder: Path) -> Path:
    """The folder of a volume, filled."""
    name = str(volume["name"])
    if name in places.volumes:
        return places.volumes[name]
    made = folder / "volumes" / name
    namespace = pod["metadata"]["namespace"]
    if "emptyDir" in volume:
        contents: dict[str, bytes] = {}
    elif "configMap" in volume:
        contents = _contents(registry, "ConfigMap", namespace, volume["configMap"]["name"])
    elif "secret" in volume:
        contents = _contents(registry, "Secret", namespace, volume["secret"]["secretName"])
    else:
        raise NotReadyYet(f"this lab can't mount volume {name}: only claims, ConfigMaps, Secrets and emptyDirs")
    made.mkdir(parents=True, exist_ok=True)
    for key, value in contents.items():
        (made / key).write_bytes(value)
    return made


def _contents(registry: Registry, kind: str, namespace: str, name: str) -> dict[str, bytes]:
    try:
        found = registry.get(kind, namespace, name)
    except ApiError as fault:
        raise NotReadyYet(f'{kind.lower()} "{name}" not found') from fault
    data = found.get("data") or {}
    if kind == "Secret":
        return {key: base64.b64decode(value or "") for key, value in data.items()}
    binary = {key: base64.b64decode(value) for key, value in (found.get("binaryData") or {}).items()}
    return {key: str(value).encode() for key, value in data.items()} | binary


def _write_account(pod: Object, access: ApiAccess, folder: Path) -> bool:
    """The files by which a program in the pod is its account; False where the pod has none."""
    spec = pod["spec"]
    if spec.get("automountServiceAccountToken") is False:
        return False
    try:
        token = access.token(pod)
    except ApiError as fault:
        if fault.code == 404 and spec.get("serviceAccountName", "default") == "default":
            return False  # this lab's namespaces are without
        raise NotReadyYet(str(fault)) from fault
    place, namespace = folder / _ACCOUNT, pod["metadata"]["namespace"]
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, text in {"token": token, "ca.crt": access.authority, "namespace": namespace}.items():
        (place / name).write_text(text, encoding="utf-8")
    server = f"https://{access.host}:{access.port}"
    write_kubeconfig(folder / "kubeconfig", server, access.authority, {"pod": token}, "pod", namespace=namespace)
    return True
