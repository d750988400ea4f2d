"""Backups that fail for a cause that the test has made: each is named with its evidence; a healthy lab is not the problem."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fix_drills import ROOT, Drill, DrillLab, until

from drillbook import kube as k8s
from drillbook.engine import lease_name

pytestmark = pytest.mark.long
NOTEBOOK = ROOT / "runbooks" / "troubleshoot-backup-failed.ipynb"


def answer(run: Drill) -> str:
    assert run.verdict == "VERIFIED", run.said
    return str(run.record["facts"]["answer"])


@contextmanager
def suspended(lab: DrillLab) -> Iterator[None]:
    space = lab.site.cluster.namespace
    names = [item["metadata"]["name"] for item in lab.admin.list(k8s.SCHEDULED_BACKUP, space)]
    for name in names:
        lab.admin.patch(k8s.SCHEDULED_BACKUP, space, name, {"spec": {"suspend": True}})
    yield
    for name in names:
        lab.admin.patch(k8s.SCHEDULED_BACKUP, space, name, {"spec": {"suspend": None}})


def schedules_suspended(lab: DrillLab) -> bool:
    return any(item["spec"].get("suspend") for item in lab.admin.list(k8s.SCHEDULED_BACKUP, lab.site.cluster.namespace))


@contextmanager
def asked_for(lab: DrillLab, name: str, **spec: Any) -> Iterator[dict[str, Any]]:
    """A Backup, asked for as somebody else does; it is gone afterwards."""
    space = lab.site.cluster.namespace
    like = lab.admin.list(k8s.BACKUP, space)[0]["spec"]
    made = lab.admin.create(
        {
            "apiVersion": "postgresql.cnpg.io/v1",
            "kind": "Backup",
            "metadata": {"name": name, "namespace": space},
            "spec": {key: value for key, value in (like | spec).items() if value is not None},
        }
    )
    try:
        yield made
    finally:
        lab.admin.delete(k8s.BACKUP, space, name, uid=made["metadata"]["uid"])


def phase(lab: DrillLab, name: str) -> str:
    found = lab.admin.get(k8s.BACKUP, lab.site.cluster.namespace, name) or {}
    return str((found.get("status") or {}).get("phase", ""))


@pytest.fixture
def backed_up(drill_lab: DrillLab) -> DrillLab:
    """A lab whose newest Backup has completed, whatever other tests have left in it."""
    drill_lab.back_up()
    return drill_lab


def test_i17_backups_that_are_well_are_not_the_problem(backed_up: DrillLab) -> None:
    run = backed_up.run(NOTEBOOK)
    assert answer(run).startswith("NOT YOUR PROBLEM")
    assert run.check("symptom")["verdict"] == "n/a"
    assert set(run.verdicts("cause: ").values()) == {"VERIFIED"}, "each check is silent on a healthy lab"


def test_i17_a_schedule_that_is_suspended_is_the_cause(backed_up: DrillLab) -> None:
    with suspended(backed_up):
        run = backed_up.run(NOTEBOOK)
    assert answer(run).startswith("THE SCHEDULE MAKES NONE. ") and "suspended" in answer(run)
    assert [name for name, verdict in run.verdicts("cause: ").items() if verdict == "FAILED"] == ["cause: schedule"]


def test_i17_a_suspended_schedule_is_fixed_behind_a_gate_and_only_by_who_may_and_is_alone(backed_up: DrillLab) -> None:
    lab = backed_up
    with suspended(lab):
        bare = lab.run(NOTEBOOK, fix="true")
        assert bare.code == 2 and "missing right: patch on scheduledbackups" in bare.said, bare.said
        with lab.recovering():
            run = lab.run(NOTEBOOK, fix="true")
            assert run.code == 3 and schedules_suspended(lab), run.said
            with lab.admin.lease(lab.site.drillbook_namespace, lease_name(lab.site), "another-run", ttl_seconds=60):
                refused = lab.go_on(run)
                assert refused.code not in (0, 3) and "another-run" in refused.said, refused.said
            assert schedules_suspended(lab), "nothing is changed while another run holds the cluster"
            fixed = lab.go_on(run)
        assert (fixed.code, fixed.verdict) == (0, "VERIFIED"), fixed.said
        after = fixed.check("after the fix")
        assert (after["verdict"], after["required"]) == ("VERIFIED", True) and not schedules_suspended(lab)


def test_i17_a_key_that_the_store_refuses_is_the_cause_and_not_the_queue(drill_lab: DrillLab) -> None:
    with drill_lab.failing_archiver(), asked_for(drill_lab, "t17-key"):
        until(lambda: phase(drill_lab, "t17-key") in ("walArchivingFailing", "failed"), "the Backup is in trouble")
        run = drill_lab.run(NOTEBOOK)
    assert answer(run).startswith("THE OBJECT STORE REFUSES THE CLUSTER'S KEY. "), run.said
    assert run.check("symptom")["verdict"] == "VERIFIED"


def test_i17_an_object_store_that_is_gone_is_the_cause(drill_lab: DrillLab) -> None:
    with drill_lab.fault("objectstore-missing"), asked_for(drill_lab, "t17-store"):
        until(
            lambda: phase(drill_lab, "t17-store") not in ("", "pending", "started", "running"),
            "the Backup is in trouble",
        )
        run = drill_lab.run(NOTEBOOK)
    assert answer(run).startswith("THE OBJECTSTORE IS NOT THERE. "), run.said


@pytest.mark.soak
def test_i17_a_plugin_that_is_not_there_is_the_cause(drill_lab: DrillLab) -> None:
    with drill_lab.fault("plugin-missing"):
        run = drill_lab.run(NOTEBOOK)
    assert answer(run).startswith("A PLUGIN IS NOT THERE. "), run.said


@pytest.mark.soak
def test_i17_a_method_that_is_not_the_clusters_is_the_cause(drill_lab: DrillLab) -> None:
    with asked_for(drill_lab, "t17-method", method="barmanObjectStore", pluginConfiguration=None):
        until(lambda: phase(drill_lab, "t17-method") == "failed", "the Backup has failed")
        run = drill_lab.run(NOTEBOOK)
    assert answer(run).startswith("THE BACKUP'S METHOD IS NOT THE CLUSTER'S. "), run.said
