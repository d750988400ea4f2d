"""A runbook's parameters: every fault at once, by name, before anything is touched."""

from __future__ import annotations

from drillbook.engine.parameters import faults_of


def test_every_fault_is_told_at_once() -> None:
    found = faults_of(
        {
            "target_time": "yesterday",
            "target_lsn": "17",
            "target_name": "x" * 64,
            "target_xid": "",
            "search_table": "articles",
            "search_from": "2026-11-27T09:00:00",
            "search_to": "",
            "no_backup_because": "a\nb",
        }
    )
    assert [fault.partition(":")[0] for fault in found] == [
        "target_time",
        "target_lsn",
        "target_name",
        "search_table",
        "search_from",
        "no_backup_because",
        "target_time, target_lsn, target_name",
    ]
    assert "no time zone" in found[4]


def test_a_target_or_none() -> None:
    for given in ({}, {"target_lsn": "0/3000028"}, {"target_name": "before the deployment"}, {"target_xid": "771"}):
        assert faults_of({"target_time": ""} | given) == []


def test_a_search_has_a_begin_before_its_end() -> None:
    given = {"search_from": "2026-11-27T09:00:00Z", "search_to": "2026-11-27T10:00:00+02:00"}
    assert faults_of(given) == ["search_from, search_to: nothing is between them"]
    assert faults_of(given | {"search_to": "2026-11-27T10:00:00Z"}) == []


def test_i14_a_time_limit_is_a_whole_number_of_seconds() -> None:
    for value in (0, -1, 86_401, True, "60", "1.5", ""):
        assert len(faults_of({"lock_timeout_seconds": value, "statement_timeout_seconds": value})) == 2, value
    assert faults_of({"lock_timeout_seconds": 1, "statement_timeout_seconds": 86_400}) == []


def test_a_watch_is_a_whole_number_of_seconds() -> None:
    for value in (-1, 3601, "5", True, 2.5, ""):
        assert len(faults_of({"watch_seconds": value})) == 1, value
    assert faults_of({"watch_seconds": 0}) == faults_of({"watch_seconds": 3600}) == []
