"""The lab's command line, as another program calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fix_lab import RunningLab


def run(*arguments: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **({"DRILLBOOK_LAB_HOME": str(home)} if home else {})}
    argv = [sys.executable, "-m", "drillbook_lab", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, env=env, timeout=480, check=False)


def test_up_says_that_it_is_up(lab: RunningLab) -> None:
    done = run("up", home=lab.home.root)
    assert (done.returncode, "up already" in done.stdout) == (0, True)


def test_up_refuses_another_site_in_the_same_home(lab: RunningLab) -> None:
    done = run("up", "--profile", "second", home=lab.home.root)
    assert done.returncode == 4
    assert "another site" in done.stderr


def test_status_shows_cluster_backup_processes_and_endpoint(lab: RunningLab) -> None:
    done = run("status", "--json", home=lab.home.root)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["phase"] == "Cluster in healthy state"
    assert found["endpoint"].startswith("http://127.0.0.1:")
    assert found["backups"][0]["phase"] == "completed"
    assert {process["what"] for process in found["processes"]} >= {"labd", "object store", "writer"}
    table = run("status", home=lab.home.root)
    assert "shared-postgres" in table.stdout


def test_env_prints_what_a_shell_can_evaluate(lab: RunningLab, tmp_path: Path) -> None:
    profile = tmp_path / "a site.yaml"
    done = run("env", "--site", str(profile), home=lab.home.root)
    script = done.stdout + 'printf "%s\\n%s" "$KUBECONFIG" "$DRILLBOOK_SITE"'
    answer = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    pinned = yaml.safe_load(Path(answer[1]).read_text())
    assert pinned["extends"] == str(profile)
    assert pinned["identity"]["system_identifier"] == lab.source()["status"]["systemID"]
    config = yaml.safe_load(Path(answer[0]).read_text())
    assert config["current-context"] == "lab"
    assert {context["name"] for context in config["contexts"]} == {"lab", "lab-admin"}


def test_faults_are_listed_and_an_unknown_one_is_bad_usage(lab: RunningLab) -> None:
    listed = run("fault", "--list", home=lab.home.root)
    assert listed.returncode == 0
    assert "wal-removed" in listed.stdout
    assert run("fault", "gremlins", home=lab.home.root).returncode == 4


def test_bad_usage_is_four_and_a_missing_lab_is_one(tmp_path: Path) -> None:
    assert run("up", "--nonsense").returncode == 4
    assert run("up", "--profile", "third", home=tmp_path).returncode == 4
    assert run("status", home=tmp_path / "none").returncode == 1
    assert run("down", home=tmp_path / "none").returncode == 0


@pytest.mark.soak
def test_run_makes_the_second_site_passes_the_exit_status_and_leaves_nothing() -> None:
    check = (
        "import os, sys, yaml, pathlib; from drillbook_lab.home import LabHome; from drillbook_lab.view import Client;"
        "home = LabHome(pathlib.Path(os.environ['KUBECONFIG']).parent);"
        "c = Client(home).get('/apis/postgresql.cnpg.io/v1/namespaces/billing-db/clusters/ledger');"
        "print(home.root, home.state()['socket_dir'], c['status']['phase'], sep='|'); sys.exit(7)"
    )
    done = run("run", "--profile", "second", "--data-mb", "1", "--", sys.executable, "-c", check)
    assert done.returncode == 7, done.stderr
    root, sockets, phase = done.stdout.strip().split("|")
    assert phase == "Cluster in healthy state"
    assert not Path(root).exists()
    assert not Path(sockets).exists()
