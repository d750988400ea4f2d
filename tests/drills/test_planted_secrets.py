"""Twenty secrets, shown by a careless step in as many odd ways, are nowhere: not in a run's folder, its archive, or an argument."""

from __future__ import annotations

import json
import os
import secrets
import threading
from pathlib import Path

import boto3
import nbformat
import pytest
from botocore.config import Config
from fix_drills import Drill, DrillLab
from planted import SECRET, WAYS

from drillbook import kube as k8s

HERE = Path(__file__).resolve().parent
BUCKET = "drillbook-evidence"


def notebook(folder: Path, fail: bool) -> Path:
    made = nbformat.v4.new_notebook()
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [
        'site = ""\nmode = "plan"',
        'from planted import *\nfrom drillbook.engine import open_run\nrun = open_run("check-planted", site=site, mode=mode)',
        f"run.do(ShowSecrets({fail}))",
        "run.close()",
    ]
    made.cells = [nbformat.v4.new_markdown_cell("# Secrets are shown")]
    made.cells += [nbformat.v4.new_code_cell(source) for source in cells]
    made.cells[1].metadata["tags"] = ["parameters"]
    path = folder / "check-planted.ipynb"
    nbformat.write(made, path)
    return path


class Arguments:
    """Every command line of this machine while it is looked at, by `/proc`."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Arguments:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.02):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(path.read_bytes())
                except OSError:
                    continue


@pytest.fixture
def planted(drill_lab: DrillLab) -> dict[str, str]:
    """A Secret in the cluster with twenty values, each as its way of being shown needs it."""
    values = {name: around.replace("{}", secrets.token_urlsafe(24)) for name, (around, _) in WAYS.items()}
    metadata = {"name": SECRET, "namespace": drill_lab.site.drill_namespace}
    drill_lab.admin.create({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values})
    return values


def remove(lab: DrillLab) -> None:
    found = lab.admin.get(k8s.SECRET, lab.site.drill_namespace, SECRET)
    if found is not None:
        lab.admin.delete(k8s.SECRET, lab.site.drill_namespace, SECRET, uid=found["metadata"]["uid"])


def stored(lab: DrillLab, run_id: str) -> list[bytes]:
    """What the bucket holds of a run, as its owner reads it."""
    admin = json.loads((lab.home / "s3" / "admin.json").read_text())
    client = boto3.client(
        "s3",
        endpoint_url=admin["endpoint"],
        aws_access_key_id=admin["access"],
        aws_secret_access_key=admin["secret"],
        region_name="us-east-1",
        config=Config(proxies={}),
    )
    keys = [item["Key"] for item in client.list_objects_v2(Bucket=BUCKET).get("Contents", ()) if run_id in item["Key"]]
    return [client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys]


@pytest.mark.long
@pytest.mark.parametrize("fail", [False, True])
def test_i16_twenty_planted_secrets_are_nowhere(
    drill_lab: DrillLab, tmp_path: Path, planted: dict[str, str], fail: bool
) -> None:
    assert len(WAYS) == 20
    endpoint = json.loads((drill_lab.home / "s3" / "admin.json").read_text())["endpoint"]
    archive = {"bucket": BUCKET, "prefix": "planted", "endpoint_url": endpoint, "mode": "COMPLIANCE", "years": 1}
    site = drill_lab.profile_with(f"planted-{fail}", evidence={"archive": archive | {"secret": {"name": BUCKET}}})
    path = f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    before = set(drill_lab.outputs.glob("check-planted/*"))
    try:
        with Arguments() as arguments:
            done = drill_lab.drillbook(
                "run",
                str(notebook(tmp_path, fail)),
                "--mode",
                "apply",
                "--site",
                str(site),
                env={"PYTHONPATH": path},
            )
    finally:
        remove(drill_lab)
    (folder,) = set(drill_lab.outputs.glob("check-planted/*")) - before
    run = Drill(done.returncode, folder, done.stdout + done.stderr)
    (ended,) = [event for event in run.of("step_finished") if event["n"] == 1]
    assert (ended["error"] is not None) is fail, run.said
    assert "[masked]" in (folder / "logs" / "planted.txt").read_text()
    kept = stored(drill_lab, folder.name)
    assert len(kept) == 2, run.said
    places = {str(item): item.read_bytes() for item in folder.rglob("*") if item.is_file()}
    places |= {f"object {number}": data for number, data in enumerate(kept)}
    places |= {"output": run.said.encode(), "arguments": b"\n".join(arguments.seen)}
    own = [line for line in arguments.seen if b"check-planted" in line]
    assert own, "the run itself was not seen in /proc"
    found = []
    for name, (around, show) in WAYS.items():
        random_part = planted[name].removeprefix(around.partition("{}")[0]).removesuffix(around.partition("{}")[2])
        needles = {random_part, planted[name], show(planted[name]), show(random_part)}
        found += [
            f"{name} in {Path(where).name}"
            for where, data in places.items()
            if any(needle.encode() in data for needle in needles)
        ]
    assert found == []
