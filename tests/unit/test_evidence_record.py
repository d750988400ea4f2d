"""What a journal adds up to: each way in which a verdict comes about, and the record's groups."""

from __future__ import annotations

from typing import Any

import pytest
from evidence_sample import COPY, at, check, failed, planned, unproven, verified

from drillbook.evidence import judge, record
from drillbook.model import Verdict, show_seconds

Event = dict[str, Any]


def without(events: list[Event], **match: Any) -> list[Event]:
    return [event for event in events if any(event.get(key) != value for key, value in match.items())]


def altered(events: list[Event], change: Event, **match: Any) -> list[Event]:
    return [
        event | change if all(event.get(key) == value for key, value in match.items()) else event for event in events
    ]


def test_a_good_drill_is_verified_and_the_headline_says_what_was_seen() -> None:
    found = judge(verified())
    assert (found.verdict, found.outcome, found.reasons) == (Verdict.VERIFIED, "verified", [])
    expected = "shared-postgres was restored to 2026-11-01 10:00:08 UTC in 4 min 14 s; all 21 required checks hold"
    assert found.headline == expected


def test_a_failed_check_fails_the_run_and_names_expected_and_observed() -> None:
    found = judge(failed())
    assert found.verdict is Verdict.FAILED
    assert "site questions: pending events: expected at most 5, observed 1,381" in found.reasons
    assert found.headline.startswith("amcheck: synergyflow: expected no finding, observed ")
    assert found.headline.endswith("(1 more cause)")


def test_what_was_not_observed_is_unproven() -> None:
    found = judge(unproven())
    assert found.verdict is Verdict.UNPROVEN
    assert found.reasons[0].startswith("step 13: the recovery job")
    assert f"clean-up not proven: Cluster/drillbook-drills/{COPY}" in found.reasons
    assert found.reasons[-1] == "not run: target and timeline, boundary, rows, structure, site questions, quarantine"


def test_a_plan_has_no_verdict() -> None:
    found = judge(planned())
    assert (found.verdict, found.outcome) == (None, "planned")
    assert found.headline == "18 steps, 12 of them planned only; nothing was changed"


def test_a_required_rung_that_was_never_seen_is_unproven() -> None:
    found = judge(without(verified(), type="check", name="boundary"))
    assert (found.verdict, found.reasons) == (Verdict.UNPROVEN, ["not run: boundary"])


def test_a_run_that_asserts_nothing_is_unproven() -> None:
    events = altered([e for e in verified() if e["type"] != "check"], {"required": []}, type="opened")
    assert judge(events).reasons == ["no required check was seen: nothing is asserted about the data"]


def test_a_check_that_is_not_required_does_not_count() -> None:
    events = altered(verified(), {"verdict": "FAILED"}, name="objective: recovery time")
    assert judge(events).verdict is Verdict.VERIFIED


def test_failed_outranks_unproven_and_comes_first() -> None:
    events = altered(failed(), {"verdict": "UNPROVEN", "observed": "", "reason": "timeout"}, name="rows: gitlab")
    found = judge(events)
    assert found.verdict is Verdict.FAILED
    assert found.reasons[-1] == "rows: gitlab: timeout"


def test_a_rung_seen_twice_keeps_its_worst() -> None:
    again = check(16, "rows: gitlab", "", "", "", verdict="FAILED") | {"at": at(300)}
    assert judge([*verified(), again]).verdict is Verdict.FAILED


@pytest.mark.parametrize(("enforce", "verdict"), [(True, Verdict.FAILED), (False, Verdict.VERIFIED)])
def test_a_missed_objective_is_told_and_fails_where_it_is_enforced(enforce: bool, verdict: Verdict) -> None:
    goals = {"rto_seconds": 60.0, "rpo_seconds": 3600.0, "pitr_seconds": None, "enforce": enforce}
    found = judge(altered(verified(), {"objectives": goals}, type="opened"))
    assert found.verdict is verdict
    assert ("recovery time was 4 min 14 s, its objective is 1 min" in found.reasons) is enforce
    assert enforce or found.headline.endswith("but missed its objective: recovery time")


def test_an_enforced_objective_that_was_not_measured_is_unproven() -> None:
    goals = {"rto_seconds": 60.0, "rpo_seconds": 60.0, "enforce": True}
    events = altered(without(verified(), type="fact", name="achieved"), {"objectives": goals}, type="opened")
    found = judge(without(events, type="fact", name="archive_lag"))
    assert found.verdict is Verdict.UNPROVEN
    assert "recovery point was not measured, its objective is 1 min" in found.reasons


def test_a_refusal_before_anything_changed_has_no_verdict() -> None:
    error = {
        "type": "TargetOutsideWindow",
        "what": "the target is later\nthan the newest commit",
        "changed": "nothing",
        "todo": "…",
        "verdict": None,
        "exit_code": 4,
    }
    events = [e for e in verified() if e.get("n", 0) < 3 and e["type"] not in ("phase", "obligation", "settled")]
    events.append(
        {"type": "step_finished", "n": 3, "status": "refused", "seconds": 0.1, "result": None, "error": error}
    )
    found = judge(events)
    assert (found.verdict, found.outcome) == (None, "refused")
    assert found.headline == "Refused, and nothing was changed: the target is later than the newest commit"


def test_a_refusal_after_something_changed_is_unproven() -> None:
    error = {
        "type": "RunInProgress",
        "what": "the Lease is another's",
        "changed": "nothing",
        "todo": "…",
        "verdict": None,
    }
    events = altered(verified(), {"status": "refused", "error": error}, type="step_finished", n=10)
    assert judge(events).verdict is Verdict.UNPROVEN


def test_a_gate_waits_without_a_verdict() -> None:
    error = {"type": "ConfirmationRequired", "what": "drain", "changed": "nothing", "todo": "…", "verdict": None}
    events = [*verified()[:40], {"type": "step_finished", "n": 9, "status": "refused", "error": error, "at": at(9)}]
    assert judge(events).outcome == "waiting"


def test_a_step_that_was_not_seen_to_finish_is_named() -> None:
    events = without(verified(), type="step_finished", n=13)
    assert judge(events).reasons == [
        "step 13 (Wait for fetch, replay and promotion, and keep the job's log) was started and not seen to finish"
    ]


@pytest.mark.parametrize("how", ["kernel died", "timeout"])
def test_a_kernel_that_did_not_end_by_itself_is_unproven(how: str) -> None:
    ended = {"type": "attempt", "n": 1, "notebook": "executed.ipynb", "how": how, "error": "", "at": at(400)}
    assert judge([*verified(), ended]).reasons == [f"the notebook did not complete ({how})"]


def test_an_error_outside_of_any_step_is_unproven_unless_the_notebook_closed() -> None:
    ended = {
        "type": "attempt",
        "n": 1,
        "notebook": "executed.ipynb",
        "how": "error",
        "error": "NameError",
        "at": at(400),
    }
    assert judge([*verified(), ended]).verdict is Verdict.VERIFIED
    by_runner = altered(verified(), {"by": "runner"}, type="closed")
    assert judge([*by_runner, ended]).reasons == ["the notebook did not complete (error: NameError)"]


def test_a_run_that_clean_up_had_to_close_is_unproven() -> None:
    events = altered(verified(), {"by": "cleanup"}, type="closed")
    assert judge(events).reasons == ["the run did not end by itself; clean-up closed it"]


@pytest.mark.parametrize("length", [0, 1, 2, 20, 60, len(verified()) - 1])
def test_a_journal_that_ends_anywhere_gives_a_record(length: int) -> None:
    found = record(verified()[:length])
    assert found["verdict"]["verdict"] in (None, "UNPROVEN")
    assert found["record"]["journal"]["events"] == length


def test_the_record_holds_every_group_and_says_why_a_field_is_absent() -> None:
    found = record(verified())
    groups = {
        "record",
        "test",
        "who",
        "when",
        "system",
        "backup",
        "target",
        "copy",
        "versions",
        "objectives",
        "checks",
        "verdict",
        "deviations",
        "cleanup",
        "controls",
        "artefacts",
        "not_tested",
        "circumstances",
    }
    assert groups <= found.keys()
    assert found["target"]["window"] is None
    assert found["absent"]["target.window"] == "the recovery window was not read"
    assert found["objectives"]["measured"][0] == {
        "name": "recovery time",
        "objective_seconds": 3600.0,
        "achieved_seconds": 253.6,
        "met": True,
    }
    assert found["cleanup"]["proven"] and len(found["cleanup"]["obligations"]) == 5
    assert {"name": "page checksums", "reason": "data_checksums is off in the source"} in found["deviations"][
        "not_counted"
    ]


def test_rungs_that_did_not_run_are_checks_in_the_record() -> None:
    found = {item["name"]: item for item in record(unproven())["checks"]}
    assert (found["boundary"]["verdict"], found["boundary"]["reason"]) == ("UNPROVEN", "not run")


def test_deviations_name_what_a_reader_would_not_expect() -> None:
    events = altered(verified(), {"git": {"commit": "1", "dirty": True}, "notebook_sha256": "aa"}, type="opened")
    events += [
        {
            "type": "attempt",
            "n": 1,
            "notebook": "executed.ipynb",
            "how": "finished later",
            "notebook_sha256": "bb",
            "at": at(9),
        },
        {"type": "torn", "seq": 99, "bytes": 12, "lines": 1, "after": "", "at": at(9)},
        check(16, "rows: late", "", "1", "2", verdict="FAILED") | {"at": at(10)},
    ]
    assert record(events)["deviations"]["findings"] == [
        "a writer died midway: 12 bytes of a broken line before event 99",
        "the run was closed as VERIFIED; the whole journal shows FAILED",
        "attempt 1 ran a notebook that differs from the one that was opened",
        "the working tree had changes that are in no commit",
    ]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (0.44, "0.4 s"),
        (9.96, "10 s"),
        (59.6, "1 min"),
        (252, "4 min 12 s"),
        (3599.9, "1 h"),
        (3900, "1 h 05 min"),
        (86_390, "1 d"),
        (183_600, "2 d 3 h"),
        (-3, "−3 s"),
    ],
)
def test_durations_are_shown_as_people_say_them(seconds: float, shown: str) -> None:
    assert show_seconds(seconds) == shown
