"""The tiny procedure as a notebook, and what a test does with it: run it, stop it, approve, resume, look around."""

from __future__ import annotations

import json
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
    "from tiny_steps import *\nfrom drillbook.run import open_run\n"
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
    """The procedure as a notebook of its own."""
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
        for kind, name in ((k8s.CONFIG_MAP, SUBJECT), (DEPLOYMENT, APP)):
            found = self.lab.admin.get(kind, self.namespace, name)
            if found is not None:
                self.lab.admin.delete(kind, self.namespace, name, uid=found["metadata"]["uid"])
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
        done = self.lab.drillbook("approve", run.folder.name, "--phrase", phrase, *more, env=env)
        return Drill(done.returncode, run.folder, done.stdout + done.stderr)

    def abandon(self, run: Drill) -> Drill:
        done = self.lab.drillbook("abandon", run.folder.name)
        return Drill(done.returncode, run.folder, done.stdout + done.stderr)

    def folders(self) -> list[Path]:
        return sorted(path for path in self.lab.outputs.glob(f"{self.notebook.stem}/*") if path.is_dir())

    def kubeconfig_of(self, username: str) -> Path:
        """A person's own credentials: the administrator's connection, and a ServiceAccount's token."""
        raise NotImplementedError


def phrase_of(run: Drill) -> str:
    """The phrase of the gate at which the run waits."""
    return str(run.of("waiting")[-1]["phrase"])


def steady(record: dict[str, Any]) -> Any:
    """A record without what differs between any two runs: ids, times, attempts, digests of files."""
    text = json.dumps(record, sort_keys=True)
    text = re.sub(r"\d{8}T\d{6}Z-[0-9a-f]{6}|tiny-[0-9a-f]{6}", "RUN", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[0-9:.]+(Z|[+-]\d\d:\d\d)", "AT", text)
    return json.loads(text)
