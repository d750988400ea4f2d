"""kubectl against the whole lab: what an engineer types while a cluster is being looked at."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from fix_drills import DrillLab

pytestmark = pytest.mark.long

Kubectl = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def kubectl(drill_lab: DrillLab, tmp_path: Path) -> Kubectl:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on this machine")

    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        config = ("--kubeconfig", str(drill_lab.home / "kubeconfig"), "--context", "lab-admin")
        command = ["kubectl", *config, "--cache-dir", str(tmp_path), "-n", drill_lab.site.cluster.namespace, *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60)

    return run


def test_get_shows_the_printer_columns(kubectl: Kubectl, drill_lab: DrillLab) -> None:
    shown = kubectl("get", "clusters").stdout
    assert "INSTANCES" in shown and "Cluster in healthy state" in shown
    assert drill_lab.site.cluster.name in shown


def test_wait_sees_the_cluster_ready(kubectl: Kubectl, drill_lab: DrillLab) -> None:
    done = kubectl("wait", "--for=condition=Ready", f"cluster/{drill_lab.site.cluster.name}", "--timeout=20s")
    assert "condition met" in done.stdout, done.stderr


def test_logs_are_cloudnativepgs_json_lines(kubectl: Kubectl, drill_lab: DrillLab) -> None:
    shown = kubectl("logs", f"{drill_lab.site.cluster.name}-1", "-c", "postgres", "--tail", "50")
    assert '"logger":"postgres"' in shown.stdout.replace(" ", ""), shown.stderr


def test_exec_runs_psql_as_superuser_and_gives_its_exit_status(kubectl: Kubectl, drill_lab: DrillLab) -> None:
    pod = f"{drill_lab.site.cluster.name}-1"
    asked = kubectl("exec", pod, "-c", "postgres", "--", "psql", "-XAtc", "select current_user, pg_is_in_recovery()")
    assert asked.stdout.strip() == "postgres|f", asked.stderr
    assert kubectl("exec", pod, "-c", "postgres", "--", "sh", "-c", "exit 7").returncode == 7


def test_a_backup_is_watched_to_its_end_and_deleted(kubectl: Kubectl, drill_lab: DrillLab) -> None:
    manifest = {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Backup",
        "metadata": {"name": "by-kubectl"},
        "spec": {
            "cluster": {"name": drill_lab.site.cluster.name},
            "method": "plugin",
            "pluginConfiguration": {"name": "barman-cloud.cloudnative-pg.io"},
        },
    }
    created = kubectl("create", "-f", "-", stdin=yaml.safe_dump(manifest))
    assert created.returncode == 0, created.stderr
    watch = subprocess.Popen(
        [
            "kubectl",
            "--kubeconfig",
            str(drill_lab.home / "kubeconfig"),
            "--context",
            "lab-admin",
            "-n",
            drill_lab.site.cluster.namespace,
            "get",
            "backups",
            "-w",
            "--request-timeout=50s",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        done = kubectl("wait", "--for=jsonpath={.status.phase}=completed", "backup/by-kubectl", "--timeout=50s")
        assert "condition met" in done.stdout, done.stderr
    finally:
        watch.terminate()
        seen, _ = watch.communicate(timeout=30)
    assert "started" in seen and "completed" in seen
    assert "deleted" in kubectl("delete", "backup", "by-kubectl").stdout
    assert "NotFound" in kubectl("get", "backup", "by-kubectl").stderr
