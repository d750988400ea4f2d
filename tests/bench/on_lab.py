"""What is measured on a running lab: its start, a drill's recovery against the same by hand, a runbook against papermill."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import by_hand

from drillbook import kube as k8s
from drillbook.postgres.recovery_log import RecoveryLog
from drillbook.profile import load_site

ROOT = Path(__file__).resolve().parents[2]
DRILL = ROOT / "runbooks" / "drill-monthly-verification.ipynb"
NOOP = "check-noop"

# A runbook as long as the monthly drill, whose steps read nothing; its checks are the floor, so that it ends VERIFIED.
_STEPS = """\
from dataclasses import dataclass
from typing import ClassVar

from drillbook.model import Check, Effect, Frozen, Verdict
from drillbook.engine import open_run
from drillbook.engine.kinds import kind_of
from drillbook.engine.step import CheckStep, Context, Step


class Nothing(Frozen):
    number: int


@dataclass(frozen=True)
class ReadNothing(Step[Nothing]):
    \"\"\"Read nothing.

    What is left of a step when nothing is to be done.
    \"\"\"

    effect: ClassVar[Effect] = Effect.READS
    number: int

    def do(self, ctx: Context) -> Nothing:
        return Nothing(number=self.number)


@dataclass(frozen=True)
class Floor(CheckStep):
    \"\"\"Say that the floor holds.\"\"\"

    name: ClassVar[str] = "floor"
    proves: ClassVar[str] = "nothing"

    def observe(self, ctx: Context) -> list[Check]:
        return [Check(name=name, proves="nothing", verdict=Verdict.VERIFIED) for name in kind_of("drill").required]
"""


@dataclass(frozen=True)
class Lab:
    """A lab that is up, and what a program needs to find it."""

    home: Path
    env: dict[str, str]
    up_seconds: float


def up(home: Path, data_mb: float | None = None) -> Lab:
    """Start a lab and take the time of the whole command; without ``data_mb`` with the default data."""
    size = [] if data_mb is None else ["--data-mb", str(data_mb)]
    began = time.monotonic()
    _lab(home, "up", *size)
    seconds = time.monotonic() - began
    words = [line.removeprefix("export ") for line in _lab(home, "env").splitlines() if line.startswith("export ")]
    given = dict(shlex.split(word)[0].split("=", 1) for word in words)
    env = os.environ | given | {"DRILLBOOK_OUTPUTS": str(home.with_name(f"{home.name}-outputs"))}
    return Lab(home, env, seconds)


def down(home: Path) -> None:
    """End a lab, whatever became of it."""
    subprocess.run(_python("drillbook_lab", "down", "--home", str(home)), cwd=ROOT, capture_output=True, check=False)


def _lab(home: Path, *arguments: str) -> str:
    # Every lab is built here: one that is copied from an image has pods of another day.
    env = {name: value for name, value in os.environ.items() if name != "DRILLBOOK_LAB_IMAGES"}
    command = _python("drillbook_lab", *arguments, "--home", str(home))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
    if done.returncode:
        raise RuntimeError(f"drillbook lab {arguments[0]}: {(done.stderr or done.stdout).strip()[-400:]}")
    return done.stdout


def _python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


# -- recovery ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Foretold:
    """A drill's recovery time as it was forecast before the copy was made, and as it was; where the forecast came from."""

    seconds: float
    achieved: float
    source: str

    @property
    def off(self) -> float:
        """The share of the achieved time by which the forecast missed it."""
        return abs(self.seconds - self.achieved) / self.achieved

    def __str__(self) -> str:
        return f"{self.seconds:.1f} for {self.achieved:.1f} s ({self.source})"


@dataclass(frozen=True)
class Pair:
    """A drill's recovery, and the same archive and target recovered by hand right after it."""

    drill_seconds: float
    hand_seconds: float
    hand_fetch_seconds: float
    segments: int
    backup_bytes: int
    forecast: Foretold

    @property
    def ratio(self) -> float:
        return self.drill_seconds / self.hand_seconds


# What is measured is the recovery: comparing the rows of gigabytes before and after it would take most of the time.
_PROFILE = """\
extends: {site}
tenants:
  - database: synergyflow
    app_role: synergyflow_app
    app_login: {{namespace: drillbook, name: app-login-synergyflow}}
    digest_tables: [synergyflow_knowledge.articles]
    questions:
      - {{name: incidents are there, sql: select count(*) from synergyflow_incidents.incidents, expect: {{at_least: 1}}}}
"""


def with_few_rows_compared(lab: Lab) -> Lab:
    """The lab by its own profile, whose drills compare one table in place of all."""
    path = lab.home.with_name(f"{lab.home.name}-site.yaml")
    path.write_text(_PROFILE.format(site=lab.env["DRILLBOOK_SITE"]), encoding="utf-8")
    return replace(lab, env=lab.env | {"DRILLBOOK_SITE": str(path)})


def recovery_pair(lab: Lab) -> Pair:
    """One drill with its own target, then the same by hand."""
    folder = _drill(lab)
    events = [json.loads(line) for line in (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    facts = {event["name"]: event["value"] for event in events if event["type"] == "fact"}
    log = RecoveryLog()
    for line in (folder / "logs" / "recovery.log").read_text(encoding="utf-8").splitlines():
        log.feed(line)
    if log.first_at is None or log.promoted_at is None:
        raise RuntimeError(f"the drill's recovery log has no beginning or no end: {folder}")
    target = facts["target"]["target"]
    settings = {"recovery_target_time": _for_postgres(target["target_time"])} if target["target_time"] else {}
    settings |= {"recovery_target_lsn": target["target_lsn"]} if target["target_lsn"] else {}
    settings |= {"recovery_target_xid": target["target_xid"]} if target["target_xid"] else {}
    settings |= {"recovery_target_inclusive": "off"} if target["exclusive"] else {}
    hand = by_hand.recover(archive(lab), facts["backup"]["backup_id"], settings)
    if hand.segments != log.segments:
        raise RuntimeError(f"the drill replayed {log.segments} segments, by hand it were {hand.segments}")
    seconds = (log.promoted_at - log.first_at).total_seconds()
    size = int(facts["backup"]["cluster_size_bytes"])
    return Pair(seconds, hand.seconds, hand.fetch_seconds, log.segments, size, _foretold(folder))


def _foretold(run: Path) -> Foretold:
    found = json.loads((run / "record.json").read_text(encoding="utf-8"))["forecast"]
    (row,) = [row for row in found["compared"] if row["name"] == "recovery time"]
    if row["forecast_seconds"] is None:
        raise RuntimeError(f"the drill had no forecast: {found['predicted']['unknown']}")
    return Foretold(row["forecast_seconds"], row["achieved_seconds"], found["predicted"]["source"])


def _drill(lab: Lab) -> Path:
    command = _python("drillbook", "run", str(DRILL), "--mode", "apply")
    done = subprocess.run(command, cwd=ROOT, env=lab.env, capture_output=True, text=True)
    runs = [path for path in Path(lab.env["DRILLBOOK_OUTPUTS"]).glob(f"{DRILL.stem}/*") if path.is_dir()]
    if done.returncode:
        raise RuntimeError(f"the drill ended with {done.returncode}: {_reason(max(runs, default=None)) or done.stderr}")
    return max(runs)


def _reason(run: Path | None) -> str:
    """Why a drill didn't end well, as its record has it: its files are gone when this is read."""
    if run is None or not (run / "record.json").is_file():
        return ""
    verdict = json.loads((run / "record.json").read_text(encoding="utf-8"))["verdict"]
    return f"{verdict['verdict']}, {verdict['headline']}: {'; '.join(map(str, verdict['reasons']))}"


def _for_postgres(instant: str) -> str:
    return datetime.fromisoformat(instant).strftime("%Y-%m-%d %H:%M:%S.%f%z")


def archive(lab: Lab) -> by_hand.Archive:
    """The archive as the source's ObjectStore names it, with the drills' read-only key."""
    site = load_site(lab.env["DRILLBOOK_SITE"])
    kube = k8s.Kube.open(str(lab.home / "kubeconfig"), "lab-admin")
    try:
        cluster = kube.get(k8s.CLUSTER, site.cluster.namespace, site.cluster.name) or {}
        plugin: dict[str, Any] = cluster["spec"]["plugins"][0]["parameters"]
        store = kube.get(k8s.OBJECT_STORE, site.cluster.namespace, plugin["barmanObjectName"]) or {}
        key = kube.secret(site.drill_namespace, site.archive.reader_secret.name)
    finally:
        kube.close()
    configuration = store["spec"]["configuration"]
    return by_hand.Archive(
        endpoint=configuration["endpointURL"],
        destination=configuration["destinationPath"],
        server=plugin.get("serverName") or site.cluster.name,
        access_key=key[site.archive.reader_secret.access_key_id],
        secret_key=key[site.archive.reader_secret.secret_access_key],
    )


# -- a runbook of no-op steps ----------------------------------------------------------------------


def write_noop(folder: Path, steps: int) -> Path:
    """The notebook: parameters, the classes, one cell a step, the floor, the end."""
    parameters = 'site = ""\nmode = "plan"'
    opening = f'run = open_run("{NOOP}", site=site, mode=mode)'
    sources = [("markdown", "# No-op"), ("code", parameters), ("code", _STEPS), ("code", opening)]
    for number in range(1, steps):
        sources += [("markdown", f"Step {number}. **Expect:** nothing."), ("code", f"run.do(ReadNothing({number}))")]
    sources += [("code", "run.do(Floor())"), ("code", "run.close()")]
    cells = [_cell(number, kind, source) for number, (kind, source) in enumerate(sources)]
    cells[1]["metadata"] = {"tags": ["parameters"]}
    kernel = {"kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}}
    notebook = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    path = folder / f"{NOOP}.ipynb"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return path


def _cell(number: int, kind: str, source: str) -> dict[str, Any]:
    cell: dict[str, Any] = {"id": f"cell-{number}", "cell_type": kind, "metadata": {}, "source": source}
    return cell | ({"outputs": [], "execution_count": None} if kind == "code" else {})


def headless_seconds(lab: Lab, notebook: Path) -> float:
    """The whole of ``drillbook run``: executed, settled, sealed, reported."""
    before = set(_sealed(lab))
    seconds = _timed(lab, _python("drillbook", "run", str(notebook), "--mode", "apply"))
    (folder,) = set(_sealed(lab)) - before
    if not (folder / "report.html").is_file() or not (folder / "executed.html").is_file():
        raise RuntimeError(f"{folder} has no report or no page")
    return seconds


def _sealed(lab: Lab) -> list[Path]:
    return [path.parent for path in Path(lab.env["DRILLBOOK_OUTPUTS"]).glob(f"{NOOP}/*/SHA256SUMS")]


def papermill_seconds(lab: Lab, notebook: Path) -> float:
    """Plain papermill on the same notebook, which then nobody settles, seals or reports."""
    output = notebook.with_name(f"{NOOP}-executed.ipynb")
    command = _python(
        "papermill", str(notebook), str(output), "-p", "mode", "apply", "--no-progress-bar", "-k", "python3"
    )
    return _timed(lab, command)


def _timed(lab: Lab, command: list[str]) -> float:
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=lab.env, capture_output=True, text=True)
    seconds = time.monotonic() - began
    if done.returncode:
        raise RuntimeError(f"{command[2]} ended with {done.returncode}: {(done.stdout + done.stderr).strip()[-400:]}")
    return seconds
