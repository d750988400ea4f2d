"""Schedules as CronJobs: valid for every Kubernetes that is supported, with the least rights, and once in each period."""

from __future__ import annotations

import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from evidence_sample import SITE
from test_deploy import DEPLOY

from drillbook.cli.app import status
from drillbook.cli.schedule import run_of_period
from drillbook.evidence.due import SealedRun
from drillbook.manifests.schedule import CRON, ROLES
from drillbook.model import Verdict
from drillbook.profile.schema import Every, Schedule

ROOT = Path(__file__).parents[2]
SCHEMAS = Path(sys.prefix) / "schemas"
SCHEDULES = [
    {"runbook": "check-status", "every": "hour"},
    {"runbook": "backup-manual", "every": "day"},
    {"runbook": "check-recovery-window", "every": "week", "cron": "30 5 * * 2"},
    {"runbook": "drill-monthly-verification", "every": "month", "within": "7d"},
    {"runbook": "drill-quarterly-full-restore", "every": "quarter"},
]
KUBERNETES = ("1.30", "1.31", "1.32", "1.33", "1.34")


def profile_with(folder: Path, schedules: list[dict[str, str]]) -> Path:
    path = folder / "site.yaml"
    path.write_text(
        yaml.safe_dump({"extends": str(ROOT / "sites" / "synergyflow.yaml"), "name": SITE, "schedules": schedules})
    )
    return path


def rendered(
    folder: Path, schedules: list[dict[str, str]], image: str = "registry.example/drillbook:0.1.0"
) -> tuple[int, Path]:
    to = folder / "out"
    argv = ["schedule", "--site", str(profile_with(folder, schedules)), "--image", image, "--out", str(to)]
    return status(argv), to


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    code, to = rendered(tmp_path_factory.mktemp("schedules"), SCHEDULES)
    assert code == 0
    return to


def test_i17_the_config_map_has_every_file_of_the_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rendered(tmp_path, SCHEDULES[:1])
    far = ROOT / "sites" / "synergyflow.yaml"
    said = capsys.readouterr().out
    assert f"--from-file=site.yaml={tmp_path}/site.yaml --from-file={far}\n" in said
    assert f"a ConfigMap is one folder: {far} must lie next to site.yaml" in said
    near = shutil.copy(far, tmp_path / "base.yaml")
    (tmp_path / "site.yaml").write_text(
        yaml.safe_dump({"extends": "base.yaml", "name": SITE, "schedules": SCHEDULES[:1]})
    )
    argv = [
        "schedule",
        "--site",
        str(tmp_path / "site.yaml"),
        "--image",
        "x.example/d:1",
        "--out",
        str(tmp_path / "two"),
    ]
    assert status(argv) == 0
    said = capsys.readouterr().out
    assert f"--from-file=site.yaml={tmp_path}/site.yaml --from-file={near}\n" in said and "one folder" not in said


def objects(to: Path) -> list[dict[str, Any]]:
    return [
        item
        for path in sorted(to.glob("*/*.yaml"))
        if path.name != "kustomization.yaml"
        for item in yaml.safe_load_all(path.read_text())
    ]


def of_kind(to: Path, kind: str) -> list[dict[str, Any]]:
    return [item for item in objects(to) if item["kind"] == kind]


@pytest.mark.parametrize("version", KUBERNETES)
def test_i17_every_object_is_one_of_kubernetes(written: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not SCHEMAS.is_dir():
        pytest.skip("the schemas of Kubernetes are not here: make majors")
    monkeypatch.syspath_prepend(str(SCHEMAS))
    import kubernetes_validate

    for item in objects(written):
        kubernetes_validate.validate(item, version, strict=True)
    wrong = of_kind(written, "CronJob")[0] | {"spec": {"schedules": "0 1 * * *"}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, version, strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl")
def test_i17_kustomize_builds_it_whole(written: Path) -> None:
    built = subprocess.run(["kubectl", "kustomize", str(written)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    names = sorted((item["kind"], item["metadata"]["name"]) for item in yaml.safe_load_all(built.stdout))
    assert names == sorted((item["kind"], item["metadata"]["name"]) for item in objects(written))


def test_i17_each_class_has_its_own_account_with_the_roles_of_deploy_and_no_more(written: Path) -> None:
    known = {
        item["metadata"]["name"].replace("${SITE}", SITE)
        for path in (DEPLOY / "rbac").glob("*.yaml")
        for item in yaml.safe_load_all(path.read_text())
        if item and item["kind"] in ("Role", "ClusterRole")
    }
    bound: dict[str, set[str]] = {}
    for item in of_kind(written, "RoleBinding") + of_kind(written, "ClusterRoleBinding"):
        (subject,) = item["subjects"]
        bound.setdefault(subject["name"], set()).add(item["roleRef"]["name"])
    (look,) = [item for item in of_kind(written, "Role") if item["metadata"]["name"] == f"drillbook-check-look-{SITE}"]
    assert look["rules"] == [
        {"apiGroups": ["postgresql.cnpg.io"], "resources": ["clusters"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["drillbook-archive-reader"], "verbs": ["get"]},
    ]
    keys = {item["metadata"]["name"] for item in of_kind(written, "Role")}
    bound = {name: roles - keys for name, roles in bound.items()}
    rest = {f"drillbook-{SITE}", f"drillbook-own-{SITE}", f"drillbook-source-{SITE}"}
    assert set().union(*bound.values()) <= known
    assert bound["drillbook-check"] - {f"drillbook-app-read-{SITE}"} == rest
    assert bound["drillbook-backup"] == rest | {f"drillbook-backups-{SITE}"}
    assert bound["drillbook-drill"] - {f"drillbook-app-read-{SITE}"} == rest | {f"drillbook-drills-{SITE}"}
    for job in of_kind(written, "CronJob"):
        account = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["serviceAccountName"]
        assert account == f"drillbook-{job['metadata']['name'].partition('-')[0]}" and account in bound


def test_i17_a_job_is_alone_bounded_unprivileged_and_never_tried_again(written: Path) -> None:
    jobs = {job["metadata"]["name"]: job for job in of_kind(written, "CronJob")}
    assert len(jobs) == len(SCHEDULES) and all(len(name) <= 52 for name in jobs)
    for job in jobs.values():
        spec, template = job["spec"], job["spec"]["jobTemplate"]["spec"]
        pod = template["template"]["spec"]
        (container,) = pod["containers"]
        assert (spec["concurrencyPolicy"], spec["timeZone"], template["backoffLimit"]) == ("Forbid", "Etc/UTC", 0)
        assert template["activeDeadlineSeconds"] > 7200 and pod["terminationGracePeriodSeconds"] >= 600
        assert pod["securityContext"]["runAsNonRoot"] and container["securityContext"]["readOnlyRootFilesystem"]
        assert container["command"][:2] == ["drillbook", "run"] and container["command"][-1] == "--if-due"
        assert (ROOT / "runbooks" / f"{container['command'][2]}.ipynb").is_file()
        assert not [env for env in container["env"] if "valueFrom" in env], "no secret is in the environment"
    hourly = jobs[f"check-status-{SITE}"]["spec"]
    assert hourly["startingDeadlineSeconds"] < 3600, "over a hundred missed starts would stop it for good"
    assert jobs[f"check-recovery-window-{SITE}"]["spec"]["schedule"] == "30 5 * * 2"


def test_i17_a_monthly_drill_runs_on_the_first_sunday_and_on_the_next_where_that_was_missed() -> None:
    monthly = Schedule(runbook="drill-x", every=Every.MONTH)
    assert CRON[Every.MONTH].split()[4] == "0"
    runs: list[SealedRun] = []
    for week in range(104):
        at = datetime(2026, 1, 4, 10, tzinfo=UTC) + timedelta(weeks=week)
        if at.date().isoformat() != "2026-03-01" and not run_of_period(monthly, runs, at):
            verdict = (
                Verdict.FAILED
                if at.month == 5
                else Verdict.UNPROVEN
                if at.date().isoformat() == "2026-07-05"
                else Verdict.VERIFIED
            )
            runs.append(SealedRun(run_id=f"{at:%Y%m%d}", runbook="drill-x", started_at=at, verdict=verdict))
    days = [run.started_at.date().isoformat() for run in runs]
    assert len({day[:7] for day in days}) == 24 and len(days) == 25, "once a month, also where it failed"
    assert [day for day in days if int(day[8:]) > 7] == ["2026-03-08", "2026-07-12"], "missed, and not proven"


def test_i17_all_faults_at_once_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "something").touch()
    code, to = rendered(
        tmp_path, [{"runbook": "recover-point-in-time", "every": "day"}], image="registry.example:5000/drillbook"
    )
    told = capsys.readouterr().err
    assert code == 4 and [path.name for path in to.iterdir()] == ["something"]
    for words in ("waits for a person", "not empty", "no tag or digest"):
        assert words in told, told
    assert set(ROLES) == {"check", "backup", "drill", "troubleshoot"}


def test_i17_a_drill_that_stops_at_a_gate_is_owed_and_started_by_a_person(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schedules = [*SCHEDULES, {"runbook": "drill-annual-archive-restore", "every": "year"}]
    code, to = rendered(tmp_path, schedules)
    told = capsys.readouterr().out
    assert code == 0 and "left out  drill-annual-archive-restore: it waits for a person" in told, told
    names = [job["metadata"]["name"] for job in of_kind(to, "CronJob")]
    assert len(names) == len(SCHEDULES) and not [name for name in names if "annual" in name]


def test_i17_a_schedule_that_is_not_in_the_profile_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = profile_with(tmp_path, SCHEDULES)
    assert status(["run", "drill-index-rehearsal", "--if-due", "--site", str(profile)]) == 4
    assert "has no schedule of drill-index-rehearsal" in capsys.readouterr().err
    assert status(["run", "drill-nothing", "--site", str(profile)]) == 4
    assert "drill-monthly-verification" in capsys.readouterr().err, "the runbooks that there are"
