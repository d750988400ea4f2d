"""Faults of the cluster: its operator, its plugin, its volumes, its standbys, its writer. Through the lab's doors."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from drillbook_lab.errors import LabError
from drillbook_lab.home import LabHome
from drillbook_lab.view import Client, Refusal

Undo = dict[str, Any]

_MISSING_PLUGIN = "not-installed.lab.drillbook"
_BALLAST = "ballast"
_CNPG = "/apis/postgresql.cnpg.io/v1"
_BARMAN = "/apis/barmancloud.cnpg.io/v1"


def control(home: LabHome, request: dict[str, Any]) -> dict[str, Any]:
    """Ask the daemon for what only it can do."""
    path = str(home.state().get("socket_dir", "")) + "/ctl"
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(30)
            line.connect(path)
            line.sendall(json.dumps(request).encode() + b"\n")
            answer: dict[str, Any] = json.loads(line.makefile().readline())
    except (OSError, ValueError) as fault:
        raise LabError("the lab's daemon does not answer", str(home.root), "drillbook lab up") from fault
    if not answer.get("ok"):
        raise LabError("the lab's daemon refused", str(answer.get("error")))
    return answer


def interfere(did: str, **asked: Any) -> tuple[Callable[[LabHome], Undo], Callable[[LabHome, Undo], None]]:
    """Something between the clients and the API server; the lab's own controllers go on."""

    def inject(home: LabHome) -> Undo:
        control(home, {"op": "api", **asked})
        return {"did": did}

    def restore(home: LabHome, undo: Undo) -> None:
        control(home, {"op": "api", "away": False} if "away" in asked else {"op": "api", "rules": []})

    return inject, restore


def switch(op: str, did: str) -> tuple[Callable[[LabHome], Undo], Callable[[LabHome, Undo], None]]:
    """One of the daemon's own parts, stopped and started."""

    def inject(home: LabHome) -> Undo:
        control(home, {"op": op, "run": False})
        return {"did": did}

    def restore(home: LabHome, undo: Undo) -> None:
        control(home, {"op": op, "run": True})

    return inject, restore


def _cluster_path(home: LabHome) -> str:
    state = home.state()
    return f"{_CNPG}/namespaces/{state['namespace']}/clusters/{state['cluster']}"


# -- plugin and ObjectStore ------------------------------------------------------------------------------------


def require_plugin(home: LabHome) -> Undo:
    """The Cluster asks for a plugin that its operator doesn't have."""
    client, path = Client(home), _cluster_path(home)
    plugins = client.get(path)["spec"].get("plugins") or []
    client.patch(path, {"spec": {"plugins": [*plugins, {"name": _MISSING_PLUGIN}]}})
    return {"did": f"the Cluster's spec.plugins names {_MISSING_PLUGIN}"}


def drop_plugin(home: LabHome, undo: Undo) -> None:
    """It no longer asks for it; the other plugins are left as they are now."""
    client, path = Client(home), _cluster_path(home)
    plugins = client.get(path)["spec"].get("plugins") or []
    client.patch(path, {"spec": {"plugins": [entry for entry in plugins if entry["name"] != _MISSING_PLUGIN]}})


def delete_store(home: LabHome) -> Undo:
    """The ObjectStore that the Cluster's plugin names is deleted; the bucket isn't touched."""
    client, path = Client(home), _cluster_path(home)
    entries = client.get(path)["spec"].get("plugins") or []
    names = [entry["parameters"]["barmanObjectName"] for entry in entries if entry.get("parameters")]
    if not names:
        raise LabError("the Cluster uses no ObjectStore", path)
    kept = client.get(f"{_stores(home)}/{names[0]}")
    client.delete(f"{_stores(home)}/{names[0]}")
    return {"did": f"deleted ObjectStore {names[0]}", "object": kept}


def create_store(home: LabHome, undo: Undo) -> None:
    """Made again as it was, with what its status said; one that somebody has made in the meantime stays."""
    client, kept = Client(home), undo["object"]
    meta = {
        key: kept["metadata"][key] for key in ("name", "namespace", "labels", "annotations") if key in kept["metadata"]
    }
    try:
        client.post(_stores(home), {**{key: kept[key] for key in ("apiVersion", "kind", "spec")}, "metadata": meta})
    except Refusal as fault:
        if fault.code != 409:
            raise
        return
    if kept.get("status"):
        client.patch(f"{_stores(home)}/{meta['name']}/status", {"status": kept["status"]})


def _stores(home: LabHome) -> str:
    return f"{_BARMAN}/namespaces/{home.state()['namespace']}/objectstores"


def primary(home: LabHome) -> str:
    """The pod of the site's current primary."""
    status = Client(home).get(_cluster_path(home)).get("status") or {}
    return str(status.get("currentPrimary") or f"{home.state()['cluster']}-1")


def execute(home: LabHome, pod: str, argv: list[str]) -> dict[str, Any]:
    """A command in a pod of the source's namespace, to its end: ``code`` and ``output``."""
    return control(home, {"op": "exec", "namespace": home.state()["namespace"], "pod": pod, "argv": argv})


# -- volumes ---------------------------------------------------------------------------------------------------


def fill_disk(home: LabHome) -> Undo:
    """A file as large as the primary's volume is in it; it is sparse, and takes no room on this machine."""
    client, state, pod = Client(home), home.state(), primary(home)
    claim = client.get(f"/api/v1/namespaces/{state['namespace']}/persistentvolumeclaims/{pod}")
    volume = client.get(f"/api/v1/persistentvolumes/{claim['spec']['volumeName']}")
    folder = Path(volume["spec"]["hostPath"]["path"])
    capacity = int((folder / ".capacity").read_text(encoding="ascii"))
    ballast = folder / _BALLAST
    with ballast.open("wb") as out:
        out.truncate(capacity)
    return {"did": f"the volume of {pod} is full: {capacity} bytes of ballast", "ballast": str(ballast)}


def empty_disk(home: LabHome, undo: Undo) -> None:
    """The file is gone, if its volume isn't already."""
    Path(undo["ballast"]).unlink(missing_ok=True)


# -- standbys --------------------------------------------------------------------------------------------------


def hold_replica(home: LabHome) -> Undo:
    """A standby receives WAL and applies no commit for a day."""
    client, state = Client(home), home.state()
    selector = f"labelSelector=cnpg.io/cluster%3D{state['cluster']},cnpg.io/instanceRole%3Dreplica"
    pods = client.get(f"/api/v1/namespaces/{state['namespace']}/pods?{selector}")["items"]
    if not pods:
        raise LabError("the Cluster has no standby", state["cluster"], "drillbook lab down, then: lab up --instances 2")
    pod = str(pods[0]["metadata"]["name"])
    _psql(home, pod, "ALTER SYSTEM SET recovery_min_apply_delay = '1d'")
    return {"did": f"{pod} applies commits a day late", "pod": pod}


def release_replica(home: LabHome, undo: Undo) -> None:
    """It applies what it has; one that is gone has nothing to undo."""
    state = home.state()
    try:
        Client(home).get(f"/api/v1/namespaces/{state['namespace']}/pods/{undo['pod']}")
    except Refusal as fault:
        if fault.code == 404:
            return
        raise
    _psql(home, undo["pod"], "ALTER SYSTEM RESET recovery_min_apply_delay")


def _psql(home: LabHome, pod: str, statement: str) -> None:
    argv = [
        "psql",
        "-XAtq",
        "-v",
        "ON_ERROR_STOP=1",
        "-d",
        "postgres",
        "-c",
        statement,
        "-c",
        "SELECT pg_reload_conf()",
    ]
    answer = execute(home, pod, argv)
    if answer["code"]:
        raise LabError(f"psql in {pod} failed", str(answer["output"]).strip())
