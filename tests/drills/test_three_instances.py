"""The monthly drill on a cluster of three, before and after its primary has moved to another instance."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fix_drills import ROOT, Drill, DrillLab, until

from drillbook import kube as k8s


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DrillLab]:
    """The first site on three instances."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRILLBOOK_LAB_INSTANCES", "3")
        lab = DrillLab(tmp_path_factory.mktemp("three"), "first", 2)
    yield lab
    lab.down()


def healthy(lab: DrillLab, primary: str) -> bool:
    found = lab.admin.get(k8s.CLUSTER, lab.site.cluster.namespace, lab.site.cluster.name) or {}
    status = found.get("status", {})
    well = status.get("phase") == "Cluster in healthy state" and status.get("readyInstances") == 3
    return bool(well and status.get("currentPrimary") == primary)


def read_on(drill: Drill) -> tuple[str, dict[str, str]]:
    """Where the digests were read, and what was read on the primary in its place, and why."""
    (marked,) = [event["result"] for event in drill.of("step_finished") if "read_on" in (event.get("result") or {})]
    return str(marked["read_on"]), dict(marked["instead"])


@pytest.mark.long
def test_the_drill_is_verified_on_three_instances(three: DrillLab) -> None:
    assert healthy(three, f"{three.site.cluster.name}-1")
    drill = three.drill()
    assert (drill.code, drill.verdict) == (0, "VERIFIED"), drill.said
    # g08: its digests cost the primary nothing.
    assert read_on(drill) == (f"replica {three.site.cluster.name}-2", {})
    assert three.left() == []


@pytest.mark.long
def test_a_full_restore_brings_three_instances_back(three: DrillLab) -> None:
    drill = three.run(ROOT / "runbooks" / "drill-quarterly-full-restore.ipynb")
    assert (drill.code, drill.verdict) == (0, "VERIFIED"), drill.said
    assert drill.check("instances")["observed"] == "3 ready, 2 streaming"
    assert [phase["name"] for phase in drill.record["when"]["phases"]][:5] == [
        "provision",
        "fetch",
        "replay",
        "promote",
        "replicas",
    ]
    assert three.left() == []


@pytest.mark.soak
def test_the_drill_is_verified_after_a_switchover(three: DrillLab) -> None:
    name, namespace = three.site.cluster.name, three.site.cluster.namespace
    status = {
        "targetPrimary": f"{name}-2",
        "phase": "Switchover in progress",
        "phaseReason": f"Switching over to {name}-2",
    }
    three.admin.patch(k8s.CLUSTER, namespace, name, {"status": status}, subresource="status")
    until(lambda: healthy(three, f"{name}-2"), "the switchover ends")
    drill = three.drill()
    assert (drill.code, drill.verdict) == (0, "VERIFIED"), drill.said
    assert read_on(drill)[0] in (f"replica {name}-1", f"replica {name}-3"), "g08: the new primary is spared"
    assert three.left() == []
