"""The drill on a site that archives in-tree: the same notebook and profile, and a remark that this way has an end."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from fix_drills import ROOT, DrillLab

from drillbook import kube as k8s

pytestmark = pytest.mark.long


@pytest.fixture(
    scope="module",
    params=[pytest.param(1, id="1 instances"), pytest.param(3, id="3 instances", marks=pytest.mark.soak)],
)
def in_tree_lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DrillLab]:
    """The first site, made without plugin and ObjectStore."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DRILLBOOK_LAB_BACKUP_METHOD", "barmanObjectStore")
        environment.setenv("DRILLBOOK_LAB_INSTANCES", str(request.param))
        lab = DrillLab(tmp_path_factory.mktemp("in-tree"), "first", 2)
    yield lab
    lab.down()


def test_the_drill_is_verified_on_an_in_tree_source(in_tree_lab: DrillLab, request: pytest.FixtureRequest) -> None:
    lab = in_tree_lab
    namespace = lab.site.cluster.namespace
    source = lab.admin.get(k8s.CLUSTER, namespace, lab.site.cluster.name) or {}
    assert "plugins" not in source["spec"]
    assert source["status"]["readyInstances"] == request.node.callspec.params["in_tree_lab"]
    assert lab.admin.list(k8s.OBJECT_STORE, namespace) == []
    (scheduled,) = lab.admin.list(k8s.SCHEDULED_BACKUP, namespace)
    assert scheduled["spec"]["method"] == "barmanObjectStore"

    drill = lab.drill()

    assert (drill.code, drill.verdict) == (0, "VERIFIED"), drill.said
    assert not [name for name in drill.created if name.startswith("ObjectStore/")]
    remarks = [dict(detail for detail in drill.check("right cluster")["details"])]
    assert "removed in 1.31.0" in remarks[0]["archived by"]
    (quarantine,) = [event["value"] for event in drill.of("fact") if event["name"] == "quarantine"]
    assert quarantine["plugins"] == []
    assert quarantine["backup"] is None
    assert ["backup", "a copy is never backed up"] in quarantine["left_out"]
    assert lab.left() == []
    keys = {key: entry["policy"] for key, entry in _keys(lab).items()}
    readers = {key for key, policy in keys.items() if policy == "readonly"}
    requests = [entry for entry in lab.jsonl("s3/access.jsonl") if entry["key"] in readers]
    assert requests
    assert not [entry for entry in requests if entry["method"] not in ("GET", "HEAD")]


@pytest.mark.soak
@pytest.mark.parametrize("in_tree_lab", [3], indirect=True, ids=["3 instances"])
def test_a_full_restore_by_rebuild_brings_three_instances_back(in_tree_lab: DrillLab) -> None:
    lab = in_tree_lab
    namespace, name = lab.site.cluster.namespace, lab.site.cluster.name
    before = lab.admin.get(k8s.CLUSTER, namespace, name) or {}
    lab.sql("synergyflow", "create table kept (text text)")
    lab.sql("synergyflow", "insert into kept values ('never-archived')")

    with lab.recovering():
        done = lab.go_on(lab.go_on(lab.run(ROOT / "runbooks" / "recover-full-restore-in-place.ipynb")))

    assert (done.code, done.verdict) == (0, "VERIFIED"), done.said
    assert done.check("instances")["observed"] == "3 ready, 2 streaming"
    assert (
        set(done.verdicts("complete").values()) == set(done.verdicts("backup after the cut").values()) == {"VERIFIED"}
    )
    cluster = lab.admin.get(k8s.CLUSTER, namespace, name) or {}
    assert cluster["metadata"]["uid"] != before["metadata"]["uid"] and cluster["status"]["readyInstances"] == 3
    assert "plugins" not in cluster["spec"] and lab.admin.list(k8s.OBJECT_STORE, namespace) == []
    (read,) = cluster["spec"]["externalClusters"]
    assert (
        read["barmanObjectStore"]["serverName"] == name != cluster["spec"]["backup"]["barmanObjectStore"]["serverName"]
    )
    assert lab.sql("synergyflow", "select text from kept") == "never-archived"
    assert {event["id"] for event in done.of("obligation")} == {event["id"] for event in done.of("settled")}


def _keys(lab: DrillLab) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads((lab.home / "s3" / "keys.json").read_text())
    return found
