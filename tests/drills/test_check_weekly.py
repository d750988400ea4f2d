"""A week of backups on the lab: silent on a healthy one, and each thing that is broken is named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fix_drills import ROOT, DrillLab

from drillbook import kube as k8s

pytestmark = pytest.mark.long
NOTEBOOK = ROOT / "runbooks" / "check-weekly-backups.ipynb"


@contextmanager
def schedules(lab: DrillLab, **spec: Any) -> Iterator[None]:
    """The ScheduledBackups of the source with these changes."""
    space = lab.site.cluster.namespace
    before = lab.admin.list(k8s.SCHEDULED_BACKUP, space)
    for item in before:
        lab.admin.patch(k8s.SCHEDULED_BACKUP, space, item["metadata"]["name"], {"spec": spec})
    yield
    for item in before:
        was = {key: item["spec"].get(key) for key in spec}
        lab.admin.patch(k8s.SCHEDULED_BACKUP, space, item["metadata"]["name"], {"spec": was})


def test_i17_a_healthy_week_is_green_and_each_fault_is_named(drill_lab: DrillLab) -> None:
    run = drill_lab.run(NOTEBOOK)
    assert (run.code, run.verdict) == (0, "VERIFIED"), run.said
    for check in ("schedule", "certificates", "backup metric", "method", "retention"):
        assert run.check(check)["verdict"] == "VERIFIED", run.check(check)
    assert run.check("bucket versioning")["verdict"] in ("UNPROVEN", "FAILED", "VERIFIED")
    with schedules(drill_lab, suspend=True):
        stopped = drill_lab.run(NOTEBOOK)
    assert (stopped.code, stopped.verdict) == (1, "FAILED"), stopped.said
    assert "suspended" in stopped.check("schedule")["observed"]
    assert stopped.verdicts("certificates") == {"certificates": "VERIFIED"}, "one fault hides no other check"
