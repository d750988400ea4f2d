"""The recordings' reader, without a lab: what a story keeps, what it leaves aside, and how two are compared."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from differences import Difference, page, unexplained
from recorded import Seen, actions, instant, merged, watched
from story import Story, differences, told

AT = instant("2026-11-28T02:39:05.631Z")


def seen(kind: str, name: str, what: str = "ADDED", **more: Any) -> Seen:
    labels = more.pop("labels", {})
    return Seen(AT, what, kind, {"kind": kind, "metadata": {"name": name, "labels": labels}, **more})


def event(reason: str, message: str, name: str = "one") -> Seen:
    about = {"kind": "Backup", "name": name}
    return seen("Event", "e", involvedObject=about, reason=reason, message=message, type="Normal")


def test_a_story_tells_changes_in_order_and_the_same_only_once() -> None:
    phases = ["Setting up primary", "Setting up primary", "Cluster in healthy state", "Setting up primary"]
    story = told(seen("Cluster", "c", status={"phase": phase}) for phase in phases)
    assert story.tracks["Cluster c: phase"] == ["Setting up primary", "Cluster in healthy state", "Setting up primary"]


def test_generated_names_times_ids_and_addresses_are_set_aside() -> None:
    pods = [seen("Pod", f"c-1-initdb-{end}", labels={"job-name": "c-1-initdb"}) for end in ("x7k2p", "q9z4m")]
    texts = [
        "Created pod: c-1-initdb-q9z4m",
        "by 2026-11-28 03:12:00 +0000 UTC m=+1.5",
        "uid 936ebf0a-fae7-477c-a879-d742f83e2510",
        "dial 10.99.0.2:9000",
    ]
    story = told([*pods, *(event("R", text) for text in texts)])
    assert story.tracks["Backup one: events"] == [
        "Normal R: Created pod: c-1-initdb#2",
        "Normal R: by <time>",
        "Normal R: uid <uid>",
        "Normal R: dial <address>",
    ]
    assert "Pod c-1-initdb#1: life" in story.tracks


def test_an_event_that_is_only_counted_again_is_told_once() -> None:
    story = told([event("FindingPod", "a"), event("Starting", "b"), event("FindingPod", "a")])
    assert story.tracks["Backup one: events"] == ["Normal FindingPod: a", "Normal Starting: b"]


def test_each_difference_says_on_which_side_it_is() -> None:
    real, lab = Story(), Story()
    for what in ("Pending", "Running", "Succeeded"):
        real.tell("Pod p: phase", what)
    for what in ("Pending", "Failed"):
        lab.tell("Pod p: phase", what)
    lab.tell("Pod q: phase", "Pending")
    assert differences(real, real) == []
    assert differences(real, lab) == [
        "Pod p: phase | there: Running",
        "Pod p: phase | there: Succeeded",
        "Pod p: phase | here: Failed",
        "Pod q: phase | here: Pending",
    ]


def test_what_happened_in_another_order_is_a_difference() -> None:
    real, lab = Story(), Story()
    for story, order in ((real, "ab"), (lab, "ba")):
        for what in order:
            story.tell("order", what)
    assert len(differences(real, lab)) == 2


def test_a_difference_must_be_explained_and_an_explanation_must_be_needed() -> None:
    table = (Difference("01-*|02-*", "the holder", "Lease .*: holder .*", "none reads it"),)
    found = ["Lease c: holder | there: c-1", "Pod p: phase | here: Failed"]
    assert unexplained("02-backup", found, table) == ["Pod p: phase | here: Failed"]
    assert unexplained("02-backup", [], table) == ["no longer different: Lease .*: holder .*"]
    assert unexplained("03-schedule", found, table) == found


def test_a_recording_is_read_in_the_servers_order_with_each_object_whole(tmp_path: Path) -> None:
    first = {"kind": "Pod", "metadata": {"name": "p"}, "status": {"phase": "Pending", "reason": "x"}}
    lines = [
        {
            "t": "2026-11-28T02:39:06.000Z",
            "type": "MODIFIED",
            "kind": "pods",
            "name": "p",
            "rv": "12",
            "merge": {"status": {"phase": "Running", "reason": None}},
        },
        {"t": "2026-11-28T02:39:05.000Z", "type": "ADDED", "kind": "pods", "name": "p", "rv": "9", "object": first},
        {"t": "2026-11-28T02:39:07.000Z", "type": "DELETED", "kind": "pods", "name": "p", "rv": "100"},
    ]
    (tmp_path / "watch.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    entries = list(watched(tmp_path))
    assert [(entry.what, entry.obj["status"]) for entry in entries] == [
        ("ADDED", {"phase": "Pending", "reason": "x"}),
        ("MODIFIED", {"phase": "Running"}),
        ("DELETED", {"phase": "Running"}),
    ]


def test_actions_are_read_without_the_clients_replies(tmp_path: Path) -> None:
    text = (
        "2026-11-28T02:39:05.631Z apply cluster.yaml\ncluster.postgresql.cnpg.io/plain created\n"
        "Warning: in-tree\n2026-11-28T02:48:44.712Z $ delete cluster plain --wait=true\n"
        "2026-11-28T02:49:44.712Z $ apply -f 07-broken/store.yaml\n"
    )
    (tmp_path / "actions.log").write_text(text)
    found = [action.what for action in actions(tmp_path)]
    assert found == ["apply cluster.yaml", "$ delete cluster plain --wait=true", "apply 07-broken/store.yaml"]


def test_a_merge_patch_removes_what_is_null() -> None:
    assert merged({"a": 1, "b": {"c": 2, "d": 3}}, {"a": None, "b": {"c": 4}}) == {"b": {"c": 4, "d": 3}}


PAGE = (Path(__file__).parents[2] / "docs" / "recordings.md").read_text(encoding="utf-8").splitlines()


def test_the_page_names_every_difference_that_is_left_and_no_other() -> None:
    """The rows are `page()`'s: `python -c "import differences; print(*differences.page(), sep=chr(10))"` prints them."""
    start = next(number for number, line in enumerate(PAGE) if line.startswith("| scenario | difference that is left"))
    assert [line for line in PAGE[start + 2 :] if line.startswith("|")] == page()


def test_the_page_counts_the_facts_of_each_recorded_scenario(recordings: Path) -> None:
    counted = dict(re.findall(r"^\| (\d\d-[a-z]+) \|[^|]*?(\d+) facts", "\n".join(PAGE), re.MULTILINE))
    assert counted == {name: str(told(watched(recordings / name)).facts) for name in counted}
    assert len(counted) >= 3
