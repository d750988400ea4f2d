"""The tiny procedure as a notebook, and what a test does with it: run it, stop it, approve, resume, look around."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from fix_drills import Drill, DrillLab
from tiny_steps import APP, SUBJECT

from drillbook import kube as k8s
from drillbook.kube.kinds import DEPLOYMENT

HERE = Path(__file__).resolve().parent
CELLS = [
    'site = ""\nmode = "plan"\nvalue = "new"\nrun = ""\nconfirm = ""',
    "from tiny_steps import *\nfrom drillbook.engine import open_run\n"
    'run = open_run("change-tiny", site=site, mode=mode, run=run, confirm=confirm, value=value)',
    "seen = run.do(LookAround())",
    "made = run.do(MakeThing(seen))",
    "drain, replace, scale = Drain(), Replace(seen, value), ScaleUp()\n"
    'cut = run.plan("Replace the value", drain, replace, scale)',
    "run.confirm(cut)",
    "drained = run.do(drain)",
    "replaced = run.do(replace)",
    "run.do(scale)",
    "run.do(ValueIsNew(replaced, value))",
    "run.do(RemoveThing(made))",
    "run.close()",
]
STEPS = ("LookAround", "MakeThing", "Drain", "Replace", "ScaleUp", "ValueIsNew", "RemoveThing")


def write_notebook(folder: Path, name: str = "change-tiny") -> Path:
    """The procedure as its own notebook."""
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.cells = [nbformat.v4.new_markdown_cell("# A tiny destructive procedure")]
    notebook.cells += [nbformat.v4.new_code_cell(source) for source in CELLS]
    notebook.cells[1].metadata["tags"] = ["parameters"]
    path = folder / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


@dataclass
class Tiny:
    """The tiny procedure on a lab."""

    lab: DrillLab
    notebook: Path

    @property
    def namespace(self) -> str:
        return self.lab.site.drill_namespace

    def profile(self, name: str, **changes: Any) -> Path:
        """The lab's profile with the administrator's rights: the tiny procedure acts in the drill namespace only."""
        kubernetes = {"kubeconfig": str(self.lab.home / "kubeconfig"), "context": "lab-admin"}
        return self.lab.profile_with(name, kubernetes=kubernetes, **changes)

    def prepare(self) -> None:
        """Subject and application as they are before."""
        self.clear()
        self.make_subject()
        labels = {"app": APP}
        container = {"name": "app", "image": "nothing/like-it:1"}
        template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
        self.lab.admin.create(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": APP, "namespace": self.namespace},
                "spec": {"replicas": 3, "selector": {"matchLabels": labels}, "template": template},
            }
        )

    def remake_subject(self) -> None:
        """Another subject of the same name: the plan that was made for the first is void."""
        self._remove(k8s.CONFIG_MAP, SUBJECT)
        self.make_subject()

    def clear(self) -> None:
        """Take subject and application away."""
        self._remove(k8s.CONFIG_MAP, SUBJECT)
        self._remove(DEPLOYMENT, APP)

    def _remove(self, kind: k8s.Kind, name: str) -> None:
        found = self.lab.admin.get(kind, self.namespace, name)
        if found is not None:
            self.lab.admin.delete(kind, self.namespace, name, uid=found["metadata"]["uid"])

    def make_subject(self) -> None:
        metadata = {"name": SUBJECT, "namespace": self.namespace}
        data = {"value": "old", "history": ""}
        self.lab.admin.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})

    def state(self) -> dict[str, Any]:
        """What the procedure is about, as it is now."""
        subject = self.lab.admin.get(k8s.CONFIG_MAP, self.namespace, SUBJECT) or {"data": {}}
        app = self.lab.admin.get(DEPLOYMENT, self.namespace, APP) or {"spec": {}}
        own = self.lab.admin.list(k8s.CONFIG_MAP, self.namespace, labels="drillbook.io/run")
        return {"value": subject["data"].get("value"), "replicas": app["spec"].get("replicas"), "own": len(own)}

    @property
    def untouched(self) -> bool:
        return {key: value for key, value in self.state().items() if key != "own"} == {"value": "old", "replicas": 3}

    def history(self) -> list[str]:
        """The runs that have replaced the subject's value."""
        subject = self.lab.admin.get(k8s.CONFIG_MAP, self.namespace, SUBJECT) or {"data": {"history": ""}}
        return str(subject["data"]["history"]).split()

    # -- running -------------------------------------------------------------------------------

    def env(self, **more: str) -> dict[str, str]:
        path = f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        return {"PYTHONPATH": path} | more

    def run(self, site: Path, *, mode: str = "apply", die_in: str = "", **parameters: str) -> Drill:
        before = set(self.folders())
        arguments = ["run", str(self.notebook), "--mode", mode, "--site", str(site)]
        for name, value in parameters.items():
            arguments += ["-p", name, value]
        done = self.lab.drillbook(*arguments, env=self.env(TINY_DIE_IN=die_in))
        fresh = sorted(set(self.folders()) - before)
        return Drill(done.returncode, fresh[-1] if fresh else Path(), done.stdout + done.stderr)

    def resume(self, run: Drill, *, confirm: str = "", die_in: str = "") -> Drill:
        arguments = ["resume", run.folder.name, "--notebook", str(self.notebook)]
        arguments += ["--confirm", confirm] if confirm else []
        done = self.lab.drillbook(*arguments, env=self.env(TINY_DIE_IN=die_in))
        return Drill(done.returncode, run.folder, done.stdout + done.stderr)

    def approve(self, run: Drill, phrase: str, *more: str, env: dict[str, str] | None = None) -> Drill:
        done = self.lab.drillbook("approve", str(run.folder), "--phrase", phrase, *more, env=env)
        return Drill(done.returncode, run.folder, done.stdout + done.stderr)

    def abandon(self, run: Drill) -> Drill:
        done = self.lab.drillbook("abandon", run.folder.name)
        return Drill(done.returncode, run.folder, done.stdout + done.stderr)

    def folders(self) -> list[Path]:
        return sorted(path for path in self.lab.outputs.glob(f"{self.notebook.stem}/*") if path.is_dir())


def phrase_of(run: Drill) -> str:
    """The phrase of the gate at which the run waits."""
    return str(run.of("waiting")[-1]["phrase"])


# What differs between any two runs, and between one that was interrupted and one that was not.
OF_ITS_OWN = {
    "at",
    "started_at",
    "finished_at",
    "made_at",
    "settled_at",
    "seconds",
    "waited_seconds",
    "waiting_at_gates_seconds",
    "digest",
    "id",
    "uid",
    "journal",
    "previous",
    "attempts",
    "notebooks",
    "phases",
    "host",
    "proof",
    "name",
    "sha256",
    "logs",
}


def steady(value: Any) -> Any:
    """A record without what is each run's own: ids, times, attempts, proofs of the moment."""
    if isinstance(value, dict):
        return {key: steady(item) for key, item in value.items() if key not in OF_ITS_OWN}
    if isinstance(value, list):
        return [steady(item) for item in value]
    if not isinstance(value, str):
        return value
    return re.sub(
        r"\d{4}-\d\d-\d\d[ T][0-9:.+Z]+", "AT", re.sub(r"[0-9TZ]{16}-[0-9a-f]{6}|tiny-[0-9a-f]{6}", "RUN", value)
    )
