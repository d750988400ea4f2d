"""Time limits: held against what is predicted before anything is begun, raised while a run waits, and no end of what goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.lab.fix_apiserver import Api
from tests.library.test_readiness import context
from tests.unit.evidence_sample import opened

from drillbook import kube as k8s
from drillbook.cli.headless.settling import STOPPED_MIDWAY, left_standing
from drillbook.engine.point_of_no_return import Midway
from drillbook.engine.previous_attempts import PreviousAttempts
from drillbook.engine.step import CheckStep, Context, Step
from drillbook.errors import NotResumable, RunbookError, StepTimeoutError, StillRunning, StoppedMidway
from drillbook.evidence import Journal
from drillbook.forecast import Forecast, PhaseForecast, Work
from drillbook.kube import Kube
from drillbook.model import ClusterRef, Effect, Verdict
from drillbook.profile import load_site
from drillbook.steps.preflight.limits import limit_faults, limits_check
from drillbook.steps.preflight.readiness import SourceCluster

SHOP = SourceCluster.model_construct(ref=ClusterRef(namespace="default", name="limited"))


def predicted(seconds: float | None, fetch: float = 600.0) -> Forecast:
    phase = PhaseForecast(name="fetch", seconds=fetch, low=fetch, high=fetch, source="own runs", how="")
    work = Work(stored_bytes=1, data_bytes=1, compression="", segments=1, segment_bytes=1)
    return Forecast(
        work=work,
        phases=(phase,),
        seconds=seconds,
        low=seconds,
        high=seconds,
        source="own runs",
        samples=1,
        unknown="" if seconds else "?",
    )


@pytest.mark.parametrize(
    ("limits", "instances", "said"),
    [
        ("recovery: 45m, total: 3h", 1, []),
        ("recovery: 5s, total: 3h", 1, ["limits.recovery is 5 s, and the recovery is"]),
        ("recovery: 20m, total: 3h", 3, ["the recovery with 2 replicas"]),
        ("recovery: 45m, total: 49m", 2, ["limits.total is 49 min, and the whole run"]),
    ],
)
def test_g06_each_limit_is_held_against_what_is_predicted(
    api: Api, tmp_path: Path, limits: str, instances: int, said: list[str]
) -> None:
    ctx = context(api, tmp_path, "limited", f"limits: {{step: 5s, {limits}, copy_expires: 9h}}\n")
    faults = limit_faults(ctx, SHOP, predicted(900.0), instances=instances, recoveries=2)
    assert len(faults) == len(said) and all(words in fault for words, fault in zip(said, faults, strict=True)), faults
    assert limits_check(ctx, SHOP, predicted(900.0), instances=instances, recoveries=2).verdict is (
        Verdict.FAILED if said else Verdict.VERIFIED
    )
    assert limits_check(ctx, SHOP, predicted(None)).verdict is Verdict.NOT_APPLICABLE
    ctx.close()


def test_g06_a_base_backup_is_held_against_the_last_ones(api: Api, kube: Kube, tmp_path: Path) -> None:
    made = kube.create(
        {
            "apiVersion": "postgresql.cnpg.io/v1",
            "kind": "Backup",
            "metadata": {"name": "long", "namespace": "default"},
            "spec": {
                "cluster": {"name": "limited"},
                "method": "plugin",
                "pluginConfiguration": {"name": "barman-cloud.cloudnative-pg.io"},
            },
        }
    )
    status = {"phase": "completed", "startedAt": "2026-11-01T02:00:00Z", "stoppedAt": "2026-11-01T05:00:00Z"}
    kube.patch(k8s.BACKUP, "default", "long", {"status": status}, subresource="status")
    ctx = context(api, tmp_path, "limited", "limits: {recovery: 45m, total: 20h, copy_expires: 24h}\n")
    (fault,) = limit_faults(ctx, SHOP, predicted(900.0))
    assert "a base backup" in fault and "3 h" in fault
    kube.delete(k8s.BACKUP, "default", "long", uid=made["metadata"]["uid"])
    ctx.close()


# -- raised while the run waits
# ------------------------------------------------------------------------------------------

PROFILE = "name: shop\nenvironment: test\ncluster: {namespace: databases, name: shop-db}\ntenants: [{database: shop, app_role: shop_app}]\n"


@pytest.mark.parametrize(
    ("changed", "resumes"),
    [
        ("limits: {recovery: 9h, step: 1h, total: 20h, copy_expires: 40h}\n", True),
        ("", True),
        ("drill_namespace: elsewhere\n", False),
        ("approvals: {people: 2}\n", False),
        ("objectives: {recovery_time: 9h}\n", False),
    ],
)
@pytest.mark.parametrize("before_limits_counted", [False, True])
def test_g06_a_run_is_resumed_with_other_limits_and_with_nothing_else_changed(
    tmp_path: Path, changed: str, resumes: bool, before_limits_counted: bool
) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(PROFILE, encoding="utf-8")
    was = load_site(path)
    site = {
        "name": "shop",
        "environment": "test",
        "caveats": [],
        "profile_sha256": was.digest,
        "lasting_sha256": was.lasting_digest,
    }
    if before_limits_counted:  # a run of an older version
        del site["lasting_sha256"]
    folder = tmp_path / "recover-point-in-time" / "r1"
    journal = Journal.open(folder / "journal.jsonl")
    data = opened(run_id="r1", runbook="recover-point-in-time", parameters={"mode": "apply"}, site=site)
    journal.append(data.pop("type"), **data)
    path.write_text(PROFILE + changed, encoding="utf-8")
    same: dict[str, Any] = {
        "profile": load_site(path),
        "notebook_sha256": "",
        "given": {"mode": "apply"},
        "runbook": "recover-point-in-time",
    }
    if resumes and not (before_limits_counted and changed):
        PreviousAttempts(folder).require_same(**same)
    else:
        with pytest.raises(NotResumable, match="profile was changed"):
            PreviousAttempts(folder).require_same(**same)


# -- what takes longer goes on
# -------------------------------------------------------------------------------------------


class Waits(Step[None]):
    """Wait."""

    effect = Effect.CREATES

    def __init__(self, error: RunbookError | None = None) -> None:
        self.error = error


class Watches(CheckStep):
    """Wait in a check."""

    name, proves = "backup", "there is one"

    def __init__(self, error: RunbookError) -> None:
        self.error = error

    def observe(self, ctx: Context) -> list[Any]:
        raise self.error


@pytest.mark.parametrize("kind", [Waits, Watches])
@pytest.mark.parametrize(
    ("error", "patience", "halts"),
    [
        (StillRunning("the copy was not up within 5 s", todo=""), True, True),
        (
            StillRunning("the copy was not up within 5 s", todo=""),
            False,
            False,
        ),  # a drill is settled: nobody resumes it
        (StepTimeoutError("did not end", todo=""), True, False),
    ],
)
def test_g06_a_wait_that_outlasts_its_limit_stops_the_run_midway(
    tmp_path: Path, kind: Any, error: RunbookError, patience: bool, halts: bool
) -> None:
    folder = tmp_path / "recover-full-restore" / "r1"
    journal = Journal.open(folder / "journal.jsonl")
    data = opened(run_id="r1", **({"patience": {"people": 1, "deadline_seconds": 3600}} if patience else {}))
    journal.append(data.pop("type"), **data)
    midway = Midway(journal, ())
    midway.failed(kind(error), "step 9 failed", error=error)
    assert bool(midway.halted) is halts
    if halts:
        with pytest.raises(StoppedMidway, match=r"step 9 failed. Nothing was put back or removed") as caught:
            midway.require_not("r1")
        assert "resume r1" in caught.value.todo and "abandon r1" in caught.value.todo and caught.value.exit_code == 6
        outcome = left_standing(folder)
        assert outcome.exit_code == STOPPED_MIDWAY and "step 9 failed" in outcome.headline


def test_g06_no_rung_makes_a_verdict_of_what_goes_on(api: Api, tmp_path: Path) -> None:
    ctx = context(api, tmp_path, "limited")
    with pytest.raises(StillRunning):
        Watches(StillRunning("goes on", todo="")).do(ctx)
    assert Watches(StepTimeoutError("did not end", todo="")).do(ctx).verdict is Verdict.UNPROVEN
    ctx.close()
