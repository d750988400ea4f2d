"""Asks the conformance probes of an embedded lab and writes the page of their answers.

``make conformance`` runs it: ``python tests/conformance/on_lab.py --page docs/conformance.md``. On any other cluster
``drillbook doctor --conformance`` asks the same probes.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from drillbook import kube as k8s
from drillbook.conformance import page

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "conformance"
STORE = "probes"

HEAD = """# What CloudNativePG does, asked instead of believed

The runbooks rely on facts about CloudNativePG, its Barman Cloud Plugin and Kubernetes. Each fact is a probe that can
be asked of any cluster; it makes small things of its own in a namespace that you name, and removes them:

```
kubectl create namespace probes        # and in it, for the archive's facts, an ObjectStore that may be written to
drillbook doctor --conformance --namespace probes --object-store my-store --write answers.json
```

The lab's column is what `make conformance` found; it shows that the lab does what the facts say, not that they are
true of a production cluster. That is what the other column is for: `docs/conformance-real.json`, the answers of a real
operator. Two facts were wrong when it was asked, and were corrected by what it answered: `archive_mode` is accepted and
overwritten, and a Cluster without its ObjectStore has three ordinary events. Their rows show what it answered to the facts as
they stood then; the corrected ones have not been asked of a real operator.

"""


def drillbook(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The command line, as anybody calls it."""
    argv = [sys.executable, "-m", "drillbook", *arguments]
    return subprocess.run(argv, env=env or dict(os.environ), text=True, stdout=subprocess.PIPE, check=False)


def admin_environment(home: Path) -> dict[str, str]:
    """What a program needs to be the lab's administrator."""
    environment = dict(os.environ, DRILLBOOK_LAB_HOME=str(home))
    for line in drillbook("lab", "env", env=environment).stdout.splitlines():
        words = shlex.split(line)
        if words[:1] == ["export"]:
            name, _, value = words[1].partition("=")
            environment[name] = value
    original = Path(environment["KUBECONFIG"]).read_text(encoding="utf-8")
    as_admin = home / "conformance.kubeconfig"
    as_admin.write_text(original.replace("current-context: lab\n", "current-context: lab-admin\n"), encoding="utf-8")
    as_admin.chmod(0o600)
    environment["KUBECONFIG"] = str(as_admin)
    return environment


def prepare(home: Path, kubeconfig: str) -> None:
    """A namespace for the probes, with an ObjectStore in a part of the lab's bucket that nobody else uses."""
    admin = json.loads((home / "s3" / "admin.json").read_text(encoding="utf-8"))
    with k8s.Kube.open(kubeconfig) as kube:
        if kube.get(k8s.NAMESPACE, "", NAMESPACE) is None:
            kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        if kube.get(k8s.SECRET, NAMESPACE, STORE) is None:
            entries = {"ACCESS_KEY_ID": admin["access"], "ACCESS_SECRET_KEY": admin["secret"]}
            metadata = {"name": STORE, "namespace": NAMESPACE}
            kube.create({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": entries})
        if kube.get(k8s.OBJECT_STORE, NAMESPACE, STORE) is None:
            configuration = {
                "destinationPath": f"s3://{admin['bucket']}/conformance",
                "endpointURL": admin["endpoint"],
                "s3Credentials": {
                    "accessKeyId": {"name": STORE, "key": "ACCESS_KEY_ID"},
                    "secretAccessKey": {"name": STORE, "key": "ACCESS_SECRET_KEY"},
                },
                "wal": {"compression": "gzip"},
                "data": {"compression": "gzip", "immediateCheckpoint": True},
            }
            kube.create(
                {
                    "apiVersion": "barmancloud.cnpg.io/v1",
                    "kind": "ObjectStore",
                    "metadata": {"name": STORE, "namespace": NAMESPACE},
                    "spec": {"configuration": configuration},
                }
            )


def ask(home: Path, answers: Path, *more: str) -> int:
    """Ask a running lab; its answers go to a file."""
    environment = admin_environment(home)
    prepare(home, environment["KUBECONFIG"])
    argv = [
        sys.executable,
        "-m",
        "drillbook",
        "doctor",
        "--conformance",
        "--namespace",
        NAMESPACE,
        "--object-store",
        STORE,
        "--write",
        str(answers),
        *more,
    ]
    return subprocess.run(argv, env=environment, check=False).returncode


def write_page(where: Path, lab: dict[str, object] | None, real: dict[str, object] | None) -> None:
    """The page of documentation."""
    where.write_text(HEAD + page({"The lab": lab, "A real cluster": real}), encoding="utf-8")


def main() -> int:
    """Start its own lab, ask, write the page; 0 if the lab agrees with every fact."""
    parser = argparse.ArgumentParser(description="Ask the conformance probes of a lab.")
    parser.add_argument("--page", type=Path, help="write the page of answers here")
    parser.add_argument("--real", type=Path, help="answers of a real cluster, as --write left them")
    parser.add_argument("--probe", action="append", default=[], help="only this probe")
    parser.add_argument("--home", type=Path, help="use this lab, which is up")
    chosen = parser.parse_args()
    more = [word for name in chosen.probe for word in ("--probe", name)]
    with tempfile.TemporaryDirectory(prefix="dbc") as folder:
        home, answers = chosen.home or Path(folder) / "lab", Path(folder) / "answers.json"
        environment = dict(os.environ, DRILLBOOK_LAB_HOME=str(home))
        if chosen.home is None and drillbook("lab", "up", "--data-mb", "5", env=environment).returncode:
            return 1
        try:
            code = ask(home, answers, *more)
        finally:
            if chosen.home is None:
                drillbook("lab", "down", env=environment)
        if chosen.page is not None and answers.is_file():
            real = json.loads(chosen.real.read_text(encoding="utf-8")) if chosen.real else None
            write_page(chosen.page, json.loads(answers.read_text(encoding="utf-8")), real)
    return code


if __name__ == "__main__":
    sys.exit(main())
