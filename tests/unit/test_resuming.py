"""What a journal tells of a run that is resumed: which steps of a section have begun, and whether another target may come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drillbook.engine.previous_attempts import PreviousAttempts
from drillbook.engine.retargeting import put_into_service
from drillbook.evidence import Journal
from drillbook.model import ClusterRef, Verdict
from drillbook.steps.archive.salvage import WalOnVolume, old_volume
from drillbook.steps.preflight.old_cluster import OldCluster

DIGEST = "a" * 64
REBUILD = ["NotNeeded", "NotNeeded", "StopOldCluster", "RebuildInPlace", "ServeAgain"]


def past(folder: Path, *events: dict[str, Any]) -> PreviousAttempts:
    journal = Journal.open(folder / "journal.jsonl")
    opened = {
        "type": "opened",
        "run_id": "r-1",
        "mode": "apply",
        "parameters": {"site": "", "target_time": "t1"},
        "actor": {},
    }
    for event in (opened, *events):
        journal.append(**event)
    return PreviousAttempts(folder)


def started(n: int, step: str, part: int | None = None) -> dict[str, Any]:
    section = {} if part is None else {"section": {"digest": DIGEST, "part": part}}
    return {
        "type": "step_started",
        "n": n,
        "step": step,
        "title": step,
        "effect": "changes",
        "plan": {"summary": step},
    } | section


def ended(n: int) -> dict[str, Any]:
    return {"type": "step_finished", "n": n, "status": "done", "seconds": 1.0, "result": None, "error": None}


COPY = {"type": "fact", "name": "copy", "value": "copy"}


def test_a_step_that_has_begun_is_found_by_its_place_whatever_stands_before_it(tmp_path: Path) -> None:
    steps = [{"step": step, "title": step, "effect": "changes", "digest": str(n)} for n, step in enumerate(REBUILD)]
    confirmed = {"type": "confirmed", "section": "Make it again", "digest": DIGEST, "steps": steps}
    found = past(
        tmp_path,
        confirmed,
        started(1, "NotNeeded"),
        ended(1),
        started(2, "NotNeeded"),
        ended(2),
        started(3, "StopOldCluster", 2),
        ended(3),
        started(4, "RebuildInPlace", 3),
    ).section("Make it again", REBUILD)
    assert found is not None
    assert {place: step.step for place, step in found[1].items()} == {2: "StopOldCluster", 3: "RebuildInPlace"}


@pytest.mark.parametrize("again", ["killed", "retargeted"])
def test_a_step_that_was_done_again_keeps_its_first_promise(tmp_path: Path, again: str) -> None:
    place = {"kind": "Writes", "namespace": "databases", "name": "shop-db.shop"}
    promise = {"type": "obligation", "id": "Writes/databases/shop-db.shop", "what": "", "uid": ""} | place
    settled = {"type": "settled", "id": promise["id"], "how": "put back", "proof": ""}
    resumed = {"type": "resumed", "attempt": 2, "actor": {}, "note": ""}
    other = {"type": "retargeted", "n": 1, "attempt": 2, "parameters": {"target_time": "t2"}, "actor": {}}
    first = [started(1, "ResolveTarget"), ended(1), started(2, "BlockWrites", 0), promise]
    first += [] if again == "killed" else [ended(2), other]
    second = [resumed, *([] if again == "killed" else first[:2]), started(2, "BlockWrites", 0), ended(2)]
    for name, events, over in (("open", [], False), ("let-go", [started(3, "StopOldCluster", 0), settled], True)):
        (tmp_path / name).mkdir()
        found = past(tmp_path / name, *first, *second, *events)
        assert found.ended_by_itself(found.steps[2]) is over, name


def test_another_target_may_come_until_what_was_recovered_for_this_one_is_put_into_service(tmp_path: Path) -> None:
    first = [
        started(1, "ResolveTarget"),
        ended(1),
        started(2, "SuspendBackups", 0),
        ended(2),
        started(3, "Copy"),
        COPY,
        ended(3),
    ]
    again = {"type": "retargeted", "n": 1, "attempt": 2, "parameters": {"target_time": "t2"}, "actor": {}}
    second = [again, {"type": "resumed", "attempt": 2, "actor": {}, "note": ""}, *first[:4]]
    for name, events, expected in (
        ("before-any-copy", first[:4], False),
        ("looked-at", first, False),
        ("being-carried", [*first, started(4, "TransferDatabase", 0)], True),
        ("stopped-before-the-second-copy", [*first, *second], False),
        ("second-looked-at", [*first, *second, started(3, "Copy"), COPY, ended(3)], False),
        (
            "second-carried",
            [*first, *second, started(3, "Copy"), COPY, ended(3), started(4, "TransferDatabase", 0)],
            True,
        ),
    ):
        (tmp_path / name).mkdir()
        assert put_into_service(past(tmp_path / name, *events)) is expected, name


OLD = OldCluster(
    ref=ClusterRef(namespace="databases", name="shop-db"),
    uid="u-1",
    system_id="77",
    timeline=1,
    primary="shop-db-1",
    server_name="shop-db",
    location="s3://backups/shop-db",
    server_version=160000,
    image="",
    storage_class="fast",
    instances=3,
    method="plugin",
    database="shop",
    owner="shop_app",
    secret="",
)
STANDBY = WalOnVolume(pod="shop-db-2", newest="000000010000000000000007", problem="pod shop-db-1 does not run")


@pytest.mark.parametrize(
    ("found", "because", "verdict", "says"),
    [
        (WalOnVolume(pod="shop-db-1", primary=True), "", Verdict.VERIFIED, ""),
        (
            STANDBY,
            "",
            Verdict.UNPROVEN,
            "shop-db-1 does not run. Repair the primary's pod; or give no_salvage_because",
        ),
        (
            STANDBY,
            "its node burnt",
            Verdict.NOT_APPLICABLE,
            "given up, because: its node burnt",
        ),
        (WalOnVolume(pod="", problem="the Cluster has no pod"), "", Verdict.UNPROVEN, "the Cluster has no pod"),
    ],
)
def test_only_the_primarys_volume_proves_that_nothing_is_lost(
    found: WalOnVolume, because: str, verdict: Verdict, says: str
) -> None:
    check = old_volume(OLD, found, because)
    assert (check.verdict, check.required) == (verdict, True)
    assert says in check.reason and bool(says) == bool(check.reason)
    assert "standby" in check.observed or found.primary or not found.pod
