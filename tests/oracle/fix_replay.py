"""A lab without a site: API server, controllers, kubelet and object store, on which recorded scenarios are played again."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import boto3
import psycopg
import pytest
from botocore.config import Config
from recorded import Action, Object, Seen, actions, watched
from story import Story, told

from drillbook_lab import pgbin
from drillbook_lab.addresses import free_port
from drillbook_lab.api import Serving, TokenDirectory, build_server, cnpg_registry, serve, write_kubeconfig
from drillbook_lab.home import new_socket_dir, write_json
from drillbook_lab.node.children import Child
from drillbook_lab.node.kubelet import Kubelet
from drillbook_lab.operator.context import Settings
from drillbook_lab.operator.manager import Manager

T = TypeVar("T")
TOKEN = "oracle"
KEY, SECRET, BUCKET = "ORACLEKEY", "oracle-secret", "rec-bucket"
RECORDED_ENDPOINT = "http://10.99.0.2:9000"
PATIENCE_SECONDS = 180.0
ONE_AFTER_THE_OTHER_SECONDS = 1.0  # actions closer together than this were done in one go


class ReplayLab:
    """The lab's parts on their own loop thread; every change of every object is noted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: list[Seen] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="replay", daemon=True)
        self._changed = threading.Condition()
        self._sockets = new_socket_dir()
        self.endpoint = f"http://127.0.0.1:{free_port()}"
        self._serving: Serving | None = None

    @property
    def credentials(self) -> list[str]:
        """The store's key, for `kubectl create secret`."""
        return [f"--from-literal=ACCESS_KEY_ID={KEY}", f"--from-literal=ACCESS_SECRET_KEY={SECRET}"]

    def start(self) -> None:
        self._thread.start()
        self.run(self._open())
        self.kubectl(
            "create",
            "-f",
            "-",
            stdin=json.dumps(
                {
                    "apiVersion": "storage.k8s.io/v1",
                    "kind": "StorageClass",
                    "provisioner": "drillbook.lab/directory",
                    "metadata": {
                        "name": "standard",
                        "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
                    },
                    "reclaimPolicy": "Delete",
                    "allowVolumeExpansion": True,
                }
            ),
        )

    def stop(self) -> None:
        try:
            self.run(self._close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            shutil.rmtree(self._sockets, ignore_errors=True)

    async def _open(self) -> None:
        self.registry = cnpg_registry()
        self.registry.subscribe(self._note)
        state = self.folder / "s3"
        state.mkdir()
        write_json(state / "keys.json", {KEY: {"secret": SECRET, "policy": "readwrite", "prefixes": None}})
        argv = ["-m", "drillbook_lab.store", "--state", str(state), "--port", self.endpoint.rpartition(":")[2]]
        command = [sys.executable, *argv, "--bucket", BUCKET]
        self._store = Child("object store", command, self.folder / "s3.log", self.folder)
        await self._store.start()
        self.kubelet = Kubelet(
            self.registry,
            pods_dir=self.folder / "pods",
            volumes_dir=self.folder / "volumes",
            socket_dir=self._sockets,
            bin_dir=pgbin.bin_dir(),
        )
        settings = Settings(pgbin.bin_dir(), pgbin.version(), job_retry_seconds=0.2)
        self.manager = Manager(self.registry, self.kubelet, settings)
        tokens = TokenDirectory()
        tokens.add(TOKEN, "oracle", ["system:masters"])
        application = build_server(self.registry, self.kubelet, tokens, audit=self.folder / "audit.jsonl")
        self._serving = await serve(application, self.folder / "tls")
        ca = self._serving.tls.ca_pem
        write_kubeconfig(self.folder / "kubeconfig", self._serving.url, ca, {"oracle": TOKEN}, "oracle")
        self.manager.start()
        while not (state / "ready").exists():
            await asyncio.sleep(0.05)

    async def _close(self) -> None:
        await self.manager.close()
        if self._serving is not None:
            await self._serving.close()
        await self._store.stop(3.0)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the lab's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(120)

    def tasks(self) -> set[asyncio.Task[Any]]:
        """What is under way on the lab's loop."""
        return asyncio.all_tasks(self._loop)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """The real client."""
        argv = ["kubectl", "--kubeconfig", str(self.folder / "kubeconfig"), "--cache-dir", str(self.folder / "cache")]
        env = {"PATH": os.environ["PATH"], "HOME": str(self.folder)}
        done = subprocess.run([*argv, *arguments], input=stdin, capture_output=True, text=True, env=env, timeout=120)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    # -- what is seen ------------------------------------------------------------------------------------------

    def _note(self, what: str, obj: Object) -> None:
        with self._changed:
            self.seen.append(Seen(datetime.now(UTC), what, obj["kind"], obj))
            self._changed.notify_all()

    def of(self, namespace: str) -> list[Seen]:
        """What was seen in a namespace so far."""
        with self._changed:
            return [entry for entry in self.seen if entry.obj["metadata"].get("namespace") == namespace]

    def until(self, namespace: str, wanted: dict[str, str], without: Collection[str]) -> dict[str, str]:
        """Wait until the namespace looks like this, if only for a moment; {} when it did, else what is otherwise."""
        deadline, start, look = time.monotonic() + PATIENCE_SECONDS, 0, State(without)
        while True:
            with self._changed:
                fresh, start = self.seen[start:], len(self.seen)
            here = [entry for entry in fresh if entry.obj["metadata"].get("namespace") == namespace]
            for number, entry in enumerate(here):
                look.add(entry)
                # What is already past doesn't count: only what came while we look, or the present.
                if number == len(here) - 1 and look.main == wanted:
                    return {}
            if not here and look.main == wanted:
                return {}
            with self._changed:
                if len(self.seen) == start and not self._changed.wait(timeout=0.2) and time.monotonic() > deadline:
                    return {
                        key: f"{wanted.get(key)} there, {look.main.get(key)} here"
                        for key in sorted({*wanted, *look.main})
                        if wanted.get(key) != look.main.get(key)
                    }

    def settle(self, namespace: str, quiet: float = 1.0) -> None:
        """Wait until nothing more happens in a namespace."""
        count = -1
        while count != (now := len(self.of(namespace))):
            count = now
            time.sleep(quiet)

    # -- what the recorded sessions did besides kubectl -------------------------------------------------------------

    def sql(self, namespace: str, pod: str, query: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """A superuser's query in a pod."""
        socket = self.kubelet.worker(namespace, pod).places.socket_dir
        with psycopg.connect(host=str(socket), user="postgres", dbname=database, autocommit=True) as connection:
            cursor = connection.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

    def bucket(self) -> Any:
        """The store's client, with the key that may do all."""
        config = Config(s3={"addressing_style": "path"}, proxies={})
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=config,
        )

    def keys(self, prefix: str) -> list[str]:
        """The names of the objects below a prefix."""
        pages = self.bucket().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return sorted(entry["Key"] for page in pages for entry in page.get("Contents", ()))

    def copy(
        self, source: str, target: str, *, leave_out: str = "^$", change: Callable[[str, bytes], bytes] | None = None
    ) -> None:
        """A folder of the bucket, again under another name: all but what the pattern finds, some of it changed."""
        client = self.bucket()
        for key in self.keys(source):
            if re.search(leave_out, key):
                continue
            body = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
            client.put_object(
                Bucket=BUCKET, Key=target + key.removeprefix(source), Body=change(key, body) if change else body
            )


class State:
    """How a namespace looks in the main: by this it is known when the lab has come as far as the real cluster had."""

    def __init__(self, without: Collection[str] = ()) -> None:
        self.main: dict[str, str] = {}
        self._without = without

    def add(self, entry: Seen) -> None:
        """Take in one more entry of a watch."""
        obj, name = entry.obj, f"{entry.kind} {entry.obj['metadata']['name']}"
        if entry.kind in ("Cluster", "Backup", "Job", "Pod", "PersistentVolumeClaim"):
            if (name in self._without and entry.kind != "Job") or "job-name" in (obj["metadata"].get("labels") or {}):
                return
            if entry.what == "DELETED":
                self.main.pop(name, None)
            elif look := self._look(entry.kind, obj):
                # Of a Job that isn't awaited it only counts whether it has failed at all.
                self.main[name] = "has failed" if name in self._without and look != "0 failed" else look

    @staticmethod
    def _look(kind: str, obj: Object) -> str:
        status = obj.get("status") or {}
        if kind == "Job":
            return f"{status.get('failed') or 0} failed"
        if kind == "PersistentVolumeClaim":
            return "leaves" if obj["metadata"].get("deletionTimestamp") else "stays"
        if kind == "Pod":
            ready = next(
                (entry["status"] for entry in status.get("conditions") or () if entry["type"] == "Ready"), "False"
            )
            restarted = (obj["metadata"].get("annotations") or {}).get("kubectl.kubernetes.io/restartedAt", "")
            return "leaves" if obj["metadata"].get("deletionTimestamp") else f"ready {ready} {restarted}".strip()
        if kind == "Cluster" and status.get("phase"):
            conditions = [entry for entry in status.get("conditions") or () if entry["type"] != "LastBackupSucceeded"]
            told = sorted(f"{entry['type']} {entry['status']}" for entry in conditions)
            return ", ".join([status["phase"], f"primary {status.get('currentPrimary', 'none')}", *told])
        return str(status.get("phase") or "")


@dataclass
class Scenario:
    """How one scenario is played: what its manifests say otherwise here, and what was done besides them."""

    name: str
    replace: dict[str, str] = field(default_factory=dict)
    before: dict[str, Callable[[], None]] = field(default_factory=dict)  # by how the action begins
    not_awaited: tuple[str, ...] = ()  # objects whose state was chance when the actions were done
    chance: str = "$^"  # facts that depend on it; a regular expression of `track: entry`

    @property
    def namespace(self) -> str:
        return f"rec-{self.name}"


def as_it_was(folder: Path, moment: datetime | None, without: Collection[str]) -> dict[str, str]:
    """How the recorded namespace looked at a moment; None: at the end."""
    state = State(without)
    for entry in watched(folder):
        if moment is None or entry.at <= moment:
            state.add(entry)
    return state.main


def play(lab: ReplayLab, recordings: Path, scenario: Scenario) -> tuple[Story, Story]:
    """Do on the lab what was done in a scenario, each action when the lab looks as the real cluster did then."""
    folder, namespace = recordings / scenario.name, scenario.namespace
    replace = {RECORDED_ENDPOINT: lab.endpoint, **scenario.replace}
    lab.kubectl("create", "namespace", namespace)
    lab.kubectl("-n", namespace, "create", "secret", "generic", "s3-creds", *lab.credentials)
    otherwise: list[str] = []
    aside, end = scenario.not_awaited, max(entry.at for entry in watched(folder))
    previous: datetime | None = None
    for action in actions(folder):
        if action.at > end:
            break  # of what came then there is nothing to compare with
        apart = previous is None or (action.at - previous).total_seconds() > ONE_AFTER_THE_OTHER_SECONDS
        if apart and (unlike := lab.until(namespace, as_it_was(folder, action.at, aside), aside)):
            otherwise.append(f"before {action.what}: {unlike}")
        previous = action.at
        for beginning, work in scenario.before.items():
            if action.what.startswith(beginning):
                work()
        act(lab, folder, namespace, action, replace)
    if unlike := lab.until(namespace, as_it_was(folder, None, aside), aside):
        otherwise.append(f"at the end: {unlike}")
    lab.settle(namespace)
    real, ours = told(watched(folder)), told(lab.of(namespace))
    for story in (real, ours):
        story.forget(scenario.chance)
    for entry in otherwise:
        ours.tell("course of things", entry)
    return real, ours


def act(lab: ReplayLab, folder: Path, namespace: str, action: Action, replace: dict[str, str]) -> None:
    """Do what was done: a manifest applied, a kubectl command, a promotion as the plugin of kubectl sends it."""
    if action.verb == "apply":
        text = (folder / action.words[-1].rpartition("/")[2]).read_text(encoding="utf-8")
        for old, new in replace.items():
            text = text.replace(old, new)
        lab.kubectl("-n", namespace, "apply", "-f", "-", stdin=text)
    elif action.verb == "$":
        lab.kubectl("-n", namespace, *action.words)
    elif action.verb == "promote":
        cluster, _, _ = action.words[0].rpartition("-")
        status = json.loads((folder / "promote-patch.json").read_text(encoding="utf-8"))[
            "status"
        ]  # as kubectl-cnpg sent it
        lab.kubectl(
            "-n",
            namespace,
            "patch",
            "cluster",
            cluster,
            "--subresource=status",
            "--type=merge",
            "-p",
            json.dumps({"status": status}),
        )


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory, recordings: Path) -> Iterator[ReplayLab]:
    """One lab for all scenarios."""
    assert recordings
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    lab = ReplayLab(tmp_path_factory.mktemp("replay"))
    lab.start()
    yield lab
    lab.stop()
