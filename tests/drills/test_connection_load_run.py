"""The load drill as a runbook, on the lab: a decision through real PgBouncer, and nothing left, however the run ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fix_drills import ROOT, DrillLab, children, until

from drillbook import kube as k8s
from drillbook.manifests.recovery import RUN_LABEL
from drillbook_lab.operator import pooler_config

NOTEBOOK = ROOT / "runbooks" / "drill-connection-load.ipynb"
# Little load, for two shared cores: a candidate that is far too small is found all the same.
SMALL = {
    "pods": "2",
    "baseline_pool": "4",
    "candidate_pool": "2",
    "pooler_size": "20",
    "rate": "40",
    "hold_ms": "25",
    "block_seconds": "1",
    "pairs": "6",
}
needs_pgbouncer = pytest.mark.skipif(pooler_config.binary() is None, reason=pooler_config.NO_BINARY)


@pytest.mark.long
@needs_pgbouncer
def test_c15_half_the_connections_are_judged_through_a_real_pooler(drill_lab: DrillLab) -> None:
    drill = drill_lab.run(NOTEBOOK, **SMALL)
    assert drill.folder.name and (drill.folder / "record.json").exists(), drill.said
    throughput = drill.check("candidate: throughput")
    assert throughput["verdict"] in ("FAILED", "UNPROVEN"), throughput
    for name in ("candidate: connection timeouts", "candidate: failed transactions", "pooler on the path"):
        assert drill.check(name)["verdict"] == "VERIFIED", drill.check(name)
    assert "server connections were at work" in drill.check("pooler on the path")["observed"]
    assert drill.check("queueing model")["required"] is False
    kinds = {name.partition("/")[0] for name in drill.created}
    assert {"Pooler", "NetworkPolicy", "Cluster"} <= kinds
    assert {event["id"] for event in drill.of("settled")} == set(drill.created) and drill_lab.left() == []
    report = (drill.folder / "report.html").read_text(encoding="utf-8")
    assert "Under load" in report and report.count('aria-label="p95 latency') == 1
    assert "times do not" in report
    verified = drill_lab.drillbook("verify", str(drill.folder))
    assert verified.returncode == 0, verified.stdout + verified.stderr


@pytest.mark.soak
@needs_pgbouncer
def test_c15_a_pod_of_the_load_that_dies_ends_the_run_and_leaves_nothing(drill_lab: DrillLab) -> None:
    killed: list[int] = []

    def kill() -> None:
        while not killed:
            for pid in children(os.getpid()):
                if "drillbook.connections.pod" in _command(pid):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    return
            time.sleep(0.1)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    drill = drill_lab.run(NOTEBOOK, **SMALL)
    assert killed and drill.code == 2 and "of the load ended with status -9" in drill.said, drill.said
    assert {event["id"] for event in drill.of("settled")} == set(drill.created)
    assert drill_lab.left() == [] and not drill_lab.admin.list(k8s.POOLER, labels=RUN_LABEL)


@pytest.mark.soak
@needs_pgbouncer
def test_c15_a_run_that_is_killed_under_load_leaves_no_pod_and_is_cleaned_up(drill_lab: DrillLab) -> None:
    command = [sys.executable, "-m", "drillbook", "run", str(NOTEBOOK), "--mode", "apply"]
    for name, value in SMALL.items():
        command += ["-p", name, value]
    run = subprocess.Popen(command, cwd=ROOT, env=drill_lab.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    loading = until(lambda: [pid for pid in children(run.pid) if "drillbook.connections.pod" in _command(pid)], "load")
    for pid in [run.pid, *(pid for pid in children(run.pid) if pid not in loading)]:
        os.kill(pid, signal.SIGKILL)
    run.wait(60)
    until(lambda: not any("drillbook.connections.pod" in _command(pid) for pid in loading), "no pod outlives the run")
    assert any(name.startswith("Pooler/") for name in drill_lab.left())
    cleaned = drill_lab.drillbook("cleanup")
    assert cleaned.returncode == 0, cleaned.stdout + cleaned.stderr
    assert drill_lab.left() == []


@pytest.mark.long
def test_c15_faulty_parameters_are_refused_together_before_anything_is_touched(drill_lab: DrillLab) -> None:
    drill = drill_lab.run(NOTEBOOK, pods="0", rate="-1", pairs="5")
    assert drill.code == 4 and all(f"{name}: " in drill.said for name in ("pods", "rate", "pairs")), drill.said
    other = drill_lab.run(NOTEBOOK, database="nowhere", block_seconds="3600")
    assert other.code == 4 and "no tenant of the profile" in other.said and "limits.total" in other.said, other.said
    assert drill_lab.left() == []


@pytest.fixture
def lab_without_pgbouncer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DrillLab]:
    monkeypatch.setenv(pooler_config.VARIABLE, "/nonexistent/pgbouncer")
    lab = DrillLab(tmp_path, "second", 2)
    yield lab
    lab.down()


@pytest.mark.soak
def test_c15_without_pgbouncer_only_that_part_is_unproven_and_the_command_is_named(
    lab_without_pgbouncer: DrillLab,
) -> None:
    lab = lab_without_pgbouncer
    drill = lab.run(NOTEBOOK, **{**SMALL, "candidate_pool": "4"})
    assert (drill.code, drill.verdict) == (2, "UNPROVEN"), drill.said
    found = drill.check("pooler on the path")
    assert found["verdict"] == "UNPROVEN" and "sudo apt-get install -y pgbouncer" in found["reason"]
    for name in ("candidate: connection timeouts", "candidate: failed transactions"):
        assert drill.check(name)["verdict"] == "VERIFIED", drill.check(name)
    until(lambda: lab.left() == [], "nothing is left")


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
