"""Gates and attempts as a journal tells them: what waits, whose approval counts, and what a later attempt made void."""

from __future__ import annotations

from typing import Any

import pytest
from evidence_sample import at, check, verified

from drillbook.evidence import gates, judge, record
from drillbook.model import Verdict

Event = dict[str, Any]
DIGEST, OTHER = "a" * 64, "b" * 64


def waits(digest: str = DIGEST, **more: Any) -> Event:
    return {
        "type": "waiting",
        "at": at(300),
        "section": "Cut over",
        "digest": digest,
        "phrase": f"shop {digest[:8]}",
        "deadline": at(90_000),
        "reason": "a confirmation is missing",
        "people": 2,
        "made": [],
        "lost": [],
    } | more


def approved(name: str, *, digest: str = DIGEST, strength: str = "api") -> Event:
    actor = {"username": name, "strength": strength}
    return {
        "type": "approved",
        "at": at(400),
        "section": "Cut over",
        "digest": digest,
        "how": "approve",
        "actor": actor,
    }


def started(n: int, step: str = "Cut", **more: Any) -> Event:
    return {
        "type": "step_started",
        "at": at(1),
        "n": n,
        "step": step,
        "title": step,
        "effect": "changes",
        "plan": None,
    } | more


def finished(n: int, status: str = "done", error: Event | None = None) -> Event:
    return {
        "type": "step_finished",
        "at": at(2),
        "n": n,
        "status": status,
        "seconds": 1.0,
        "result": None,
        "error": error,
    }


FAILURE = {
    "type": "KubernetesError",
    "what": "no answer",
    "changed": "unknown",
    "todo": "",
    "verdict": "UNPROVEN",
    "exit_code": 2,
}


def test_a_run_waits_from_its_gate_until_it_goes_on() -> None:
    begun = [*verified()[:3], waits()]
    found = judge(begun)
    assert (found.verdict, found.outcome) == (None, "waiting")
    assert "Cut over" in found.headline
    for ends in ({"type": "confirmed"}, started(9), {"type": "abandoned"}):
        assert gates.waiting([*begun, ends]) is None
    assert (gates.waiting([*begun, waits(OTHER)]) or {})["digest"] == OTHER


@pytest.mark.parametrize(
    ("given", "people", "missing"),
    [
        ([], 1, 1),
        ([approved("ada")], 1, 0),
        ([approved("ada", strength="os")], 1, 0),
        ([approved("ada")], 2, 1),
        ([approved("ada"), approved("ada")], 2, 1),
        ([approved("ada"), approved("bob", strength="os")], 2, 1),
        ([approved("ada"), approved("bob", digest=OTHER)], 2, 1),
        ([approved("ada"), approved("bob")], 2, 0),
    ],
)
def test_whose_approval_counts(given: list[Event], people: int, missing: int) -> None:
    assert gates.missing(gates.approvals(given, DIGEST), people) == missing


def test_who_is_refused_and_why() -> None:
    ada = [approved("ada")]
    assert "ada has approved this plan already: another person must" in gates.refusal(ada, ada[0]["actor"], 2)
    assert "only declared" in gates.refusal([], {"username": "bob", "strength": "os"}, 2)
    assert gates.refusal([], {"username": "bob", "strength": "os"}, 1) == ""
    assert gates.refusal(ada, {"username": "bob", "strength": "api"}, 2) == ""


def test_of_a_step_that_was_done_again_only_the_last_attempt_counts() -> None:
    bad = check(2, "value", "it is new", "new", "old", verdict="FAILED")
    good = check(2, "value", "it is new", "new", "new")
    phase = {"type": "phase", "at": at(2), "name": "cut", "started_at": at(1), "seconds": 1.0, "how": ""}
    promise = {
        "type": "obligation",
        "at": at(2),
        "id": "ConfigMap/a/b",
        "what": "",
        "kind": "ConfigMap",
        "namespace": "a",
        "name": "b",
    }
    events = [
        verified()[0],
        started(1),
        finished(1),
        started(2),
        promise,
        bad,
        phase,
        finished(2, "failed", FAILURE),
        started(3),
        {"type": "attempt", "at": at(3), "n": 1, "how": "kernel died", "error": "Kernel died"},
        {"type": "resumed", "at": at(3), "attempt": 2, "actor": {}, "note": ""},
        started(2),
        good,
        finished(2),
        started(3),
        finished(3),
    ]
    kept = gates.current(events)
    assert [event["n"] for event in kept if event["type"] == "step_started"] == [1, 2, 3]
    assert bad not in kept and phase not in kept and promise in kept
    assert not [reason for reason in judge(events).reasons if "step" in reason or "kernel" in reason]
    assert [item["observed"] for item in record(events)["checks"] if item["name"] == "value"] == ["new"]


def test_a_run_that_was_abandoned_is_unproven_and_says_by_whom() -> None:
    events = [*verified()[:-1], {"type": "abandoned", "at": at(500), "actor": {"username": "ada"}}]
    found = judge(events)
    assert found.verdict is Verdict.UNPROVEN and "abandoned by ada" in found.headline


def test_the_record_names_each_gate_and_who_approved() -> None:
    assert record(verified())["who"]["approver"] is None
    passed = {
        "type": "confirmed",
        "at": at(500),
        "section": "Cut over",
        "digest": DIGEST,
        "waited_seconds": 200.0,
        "approvals": [{"actor": {"username": "ada"}, "how": "approve", "at": at(400)}],
    }
    events = [*verified()[:-1], waits(OTHER), waits(), approved("ada"), passed]
    void, gate = record(events)["who"]["approver"]
    assert (void["confirmed"], void["approvals"]) == (False, [])
    assert (gate["confirmed"], gate["approvals"][0]["actor"]["username"], gate["waited_seconds"]) == (
        True,
        "ada",
        200.0,
    )
    assert "the plan of 'Cut over' changed while it waited" in str(record(events)["deviations"]["findings"])


def test_another_target_makes_void_what_was_done_for_the_first() -> None:
    def fact(name: str, value: object) -> Event:
        return {"type": "fact", "at": at(3), "name": name, "value": value}

    opened = {
        "type": "opened",
        "at": at(0),
        "parameters": {"site": "", "target_time": "t1", "target_lsn": ""},
        "actor": {},
    }
    again = {"type": "retargeted", "at": at(500), "n": 2, "attempt": 2, "actor": {}}
    events: list[Event] = [
        opened,
        started(1, "Look"),
        check(1, "before", "p", "e", "o"),
        finished(1),
        started(2, "ResolveTarget"),
        fact("target", "first"),
        finished(2),
        started(3, "Copy"),
        fact("copy", "copy 1"),
        check(3, "of the first", "p", "e", "o"),
        finished(3),
        waits(),
        again | {"parameters": {"target_time": "", "target_lsn": "0/1"}},
        {"type": "resumed", "at": at(501)},
    ]
    assert gates.current(events[:-1]) == gates.current(events)[:-1], "also before anybody has resumed it"
    kept = gates.current(events)
    assert [event["n"] for event in kept if event["type"] == "step_started"] == [1]
    assert [event["name"] for event in kept if event["type"] == "check"] == ["before"]
    assert gates.waiting(events) is None
    assert gates.parameters(events) == {"site": "", "target_time": "", "target_lsn": "0/1"}
    first, second = gates.targets([*events, started(2, "ResolveTarget"), fact("target", "second")])
    assert (first["attempt"], first["target"], first["copy"]) == (1, "first", "copy 1")
    assert (second["attempt"], second["target"], second.get("copy")) == (2, "second", None)


def test_s06_a_run_that_no_other_process_can_go_on_with_says_so_at_the_gate() -> None:
    finished = {"type": "step_finished", "n": 1, "status": "done", "result": None}
    assert gates.not_restorable([finished]) == ""
    told = gates.not_restorable([finished | {"not_restorable": "part of it is masked"}])
    assert "step 1" in told and "part of it is masked" in told and "confirm in this kernel" in told
