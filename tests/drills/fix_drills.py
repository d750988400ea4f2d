"""A lab for the drills of this folder, and what a test does with it: break something, run the notebook, look around."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from drillbook import kube as k8s
from drillbook.manifests.recovery import RUN_LABEL
from drillbook.profile import Site, load_site
from drillbook_lab.home import LabHome
from drillbook_lab.site import deploy
from drillbook_lab.site.site import LabSite, load
from drillbook_lab.view import Client

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "runbooks" / "drill-monthly-verification.ipynb"
PATIENCE_SECONDS = 300.0


T = TypeVar("T")


def until(what: Callable[[], T], why: str) -> T:
    """Wait for a true answer; the bound only keeps a broken lab from hanging the tests."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        if found := what():
            return found
        assert time.monotonic() < deadline, f"it never came true: {why}"
        time.sleep(0.1)


def children(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # a thread that has just ended
            found += [int(child) for child in path.read_text().split()]
    return found + [grandchild for child in found for grandchild in children(child)]


@dataclass(frozen=True)
class Drill:
    """A run that has ended: its exit status, its folder and what the command line said."""

    code: int
    folder: Path
    said: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "journal.jsonl").read_text().splitlines()]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    @property
    def record(self) -> dict[str, Any]:
        path = self.folder / "record.json"
        assert path.is_file(), f"no record: exit status {self.code}: {self.said}"
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    @property
    def verdict(self) -> str | None:
        found: str | None = self.record["verdict"]["verdict"]
        return found

    @property
    def headline(self) -> str:
        return str(self.record["verdict"]["headline"])

    def check(self, name: str) -> dict[str, Any]:
        """The one check of this name."""
        (found,) = [check for check in self.of("check") if check["name"] == name]
        return found

    def verdicts(self, start: str) -> dict[str, str]:
        """Verdicts of the checks whose names begin so."""
        return {check["name"]: check["verdict"] for check in self.of("check") if check["name"].startswith(start)}

    @property
    def created(self) -> list[str]:
        return [event["id"] for event in self.of("obligation")]


class DrillLab:
    """A running lab and a folder for the evidence of the runs made in it."""

    def __init__(self, folder: Path, profile: str, data_mb: float) -> None:
        self.home = folder / "home"
        self.outputs = folder / "outputs"
        self.scratch = folder
        self._lab("up", "--profile", profile, "--data-mb", str(data_mb))
        lines = self._lab("env").stdout.splitlines()
        exported = dict(line.removeprefix("export ").split("=", 1) for line in lines if line.startswith("export "))
        self.env = os.environ | {name: value.strip("'\"") for name, value in exported.items()}
        self.env |= {"DRILLBOOK_OUTPUTS": str(self.outputs), "DRILLBOOK_LAB_HOME": str(self.home)}
        self.profile = Path(self.env["DRILLBOOK_SITE"])
        self.site: Site = load_site(str(self.profile))
        self.admin = k8s.Kube.open(str(self.home / "kubeconfig"), "lab-admin")

    def down(self) -> None:
        self.admin.close()
        self._lab("down")

    def _lab(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "drillbook_lab", *arguments, "--home", str(self.home)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=480, cwd=ROOT)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done

    def processes(self) -> list[dict[str, Any]]:
        """What runs for this lab, with its pid."""
        found: list[dict[str, Any]] = json.loads(self._lab("status", "--json").stdout)["processes"]
        return found

    # -- running -------------------------------------------------------------------------------

    def drillbook(
        self, *arguments: str, env: dict[str, str] | None = None, seconds: float = 540
    ) -> subprocess.CompletedProcess[str]:
        """The product's command line, as a user runs it."""
        command = [sys.executable, "-m", "drillbook", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, cwd=ROOT, env=self.env | (env or {})
        )

    def drill(self, *, mode: str = "apply", site: Path | None = None, **parameters: str) -> Drill:
        """Run the drill headless; what the run left is in the result."""
        return self.run(NOTEBOOK, mode=mode, site=site, **parameters)

    def run(self, notebook: Path, *, mode: str = "apply", site: Path | None = None, **parameters: str) -> Drill:
        """Run a runbook headless; what the run left is in the result."""
        before = set(self.folders(notebook))
        arguments = ["run", str(notebook), "--mode", mode, *(["--site", str(site)] if site else [])]
        for name, value in parameters.items():
            arguments += ["-p", name, value]
        done = self.drillbook(*arguments)
        fresh = sorted(set(self.folders(notebook)) - before)
        return Drill(done.returncode, fresh[-1] if fresh else Path(), done.stdout + done.stderr)

    def go_on(self, run: Drill) -> Drill:
        """Give the phrase of the gate at which a run waits, and resume it."""
        assert run.code == 3, run.said
        done = self.drillbook("resume", run.folder.name, "--confirm", run.of("waiting")[-1]["phrase"])
        return Drill(done.returncode, run.folder, done.stdout + done.stderr)

    def folders(self, notebook: Path = NOTEBOOK) -> list[Path]:
        """The runs of a runbook, oldest first."""
        return sorted(path for path in self.outputs.glob(f"{notebook.stem}/*") if path.is_dir())

    def profile_with(self, name: str, /, **changes: Any) -> Path:
        """A profile of one's own that extends the lab's."""
        path = self.scratch / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"extends": str(self.profile)} | changes))
        return path

    # -- breaking and looking ------------------------------------------------------------------

    @contextmanager
    def fault(self, name: str) -> Iterator[None]:
        """A fault of the lab in force for a while."""
        self._lab("fault", name)
        try:
            yield
        finally:
            self._lab("fault", name, "--undo")

    def sql(self, database: str, statement: str) -> str:
        """A statement on the source as its superuser, by exec in the pod; unaligned text."""
        pod = f"{self.site.cluster.name}-1"
        argv = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-c", statement]
        done = self.admin.exec(self.site.cluster.namespace, pod, "postgres", argv, timeout_seconds=60)
        assert done.exit_code == 0, done.error_text
        return done.text.strip()

    def archive_segments(self, count: int) -> None:
        """Commit and switch WAL until ``count`` more segments are archived."""
        for _ in range(count):
            self.sql("postgres", "create table if not exists filler (n int)")
            self.sql("postgres", "insert into filler values (1)")
            switched = self.sql("postgres", "select pg_walfile_name(pg_switch_wal())")
            until(
                lambda wal=switched: self.sql("postgres", "select last_archived_wal from pg_stat_archiver") >= wal,
                "the segment is archived",
            )

    @contextmanager
    def failing_archiver(self) -> Iterator[None]:
        """Archiving has failed, and is seen to have; afterwards it is seen to be well again."""
        with self.fault("archiver-broken"):
            self.sql("postgres", "create table if not exists filler (n int)")
            self.sql("postgres", "select pg_switch_wal()")
            failing = "select coalesce(last_failed_time > last_archived_time, false) from pg_stat_archiver"
            until(lambda: self.sql("postgres", failing) == "t", "archiving failed")
            yield
        # PostgreSQL tries a failed segment again after a minute, or when the next one is ready.
        self.archive_segments(1)
        until(lambda: self._archiving == "True", "archiving is well again")

    @property
    def _archiving(self) -> str:
        cluster = self.admin.get(k8s.CLUSTER, self.site.cluster.namespace, self.site.cluster.name) or {}
        conditions = cluster.get("status", {}).get("conditions", [])
        return str(next((c["status"] for c in conditions if c["type"] == "ContinuousArchiving"), ""))

    @contextmanager
    def recovering(self) -> Iterator[None]:
        """The rights of deploy/recover/, for the time of a recovery."""
        with self._granted(deploy.recovery):
            yield

    @contextmanager
    def changing(self) -> Iterator[None]:
        """The rights of deploy/change/, for the time of a change of connections."""
        with self._granted(deploy.changes):
            yield

    @contextmanager
    def _granted(self, rights: Callable[[LabSite], list[dict[str, Any]]]) -> Iterator[None]:
        home = LabHome(self.home)
        client, made = Client(home), []
        for item in rights(load(str(home.state()["profile"]))):
            api = f"/apis/{item['apiVersion']}/namespaces/{item['metadata']['namespace']}/{item['kind'].lower()}s"
            client.post(api, item)
            made.append(f"{api}/{item['metadata']['name']}")
        try:
            yield
        finally:
            for path in made:
                client.delete(path)

    def own_outputs(self) -> str:
        """A folder for the evidence of one run that is made in this process: next to it others are opened while it stands."""
        folder = self.scratch / f"by-hand-{len(list(self.scratch.glob('by-hand-*')))}"
        folder.mkdir()
        return str(folder)

    @contextmanager
    def on_another_machine(self, outputs: Path) -> Iterator[None]:
        """No folder of any earlier run is there: only kubeconfig and profile."""
        before, self.env["DRILLBOOK_OUTPUTS"], self.outputs = self.outputs, str(outputs), outputs
        try:
            yield
        finally:
            self.outputs = before
            self.env["DRILLBOOK_OUTPUTS"] = str(before)

    def left(self) -> list[str]:
        """What runs have left in the drill namespace, and what CloudNativePG made for their copies."""
        namespace = self.site.drill_namespace
        kinds = (k8s.POOLER, k8s.CLUSTER, k8s.OBJECT_STORE, k8s.NETWORK_POLICY, k8s.SECRET, k8s.CONFIG_MAP)
        found = [item for kind in kinds for item in self.admin.list(kind, namespace, labels=RUN_LABEL)]
        for kind in (k8s.POD, k8s.JOB, k8s.PVC, k8s.SECRET, k8s.SERVICE):
            found += self.admin.list(kind, namespace, labels="cnpg.io/cluster")
        return [f"{item['kind']}/{item['metadata']['name']}" for item in found]

    def left_on_this_machine(self, copy: str) -> list[str]:
        """Processes and directories of a copy that are still there."""
        processes = [
            path.parent.name
            for path in Path("/proc").glob("[0-9]*/cmdline")
            if copy in _text(path) and "pytest" not in _text(path)
        ]
        return processes + [str(path) for path in self.home.rglob(f"*{copy}*")]

    def jsonl(self, name: str) -> list[dict[str, Any]]:
        """A log of the lab, one JSON object a line."""
        return [json.loads(line) for line in (self.home / name).read_text().splitlines()]

    def back_up(self) -> str:
        """A new base backup, completed; its id."""
        name = f"test-{int(time.time() * 1000)}"
        namespace = self.site.cluster.namespace
        self.admin.create(
            {
                "apiVersion": "postgresql.cnpg.io/v1",
                "kind": "Backup",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {
                    "cluster": {"name": self.site.cluster.name},
                    "method": "plugin",
                    "pluginConfiguration": {"name": "barman-cloud.cloudnative-pg.io"},
                },
            }
        )
        done = self.admin.wait(
            k8s.BACKUP,
            namespace,
            name,
            lambda found: (found or {}).get("status", {}).get("phase") in ("completed", "failed"),
            timeout_seconds=PATIENCE_SECONDS,
            what="the backup to end",
        )
        assert done is not None and done["status"]["phase"] == "completed", done
        return str(done["status"]["backupId"])


def _text(path: Path) -> str:
    try:
        return path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
