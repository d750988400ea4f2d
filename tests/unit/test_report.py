"""Cards and report: what they say is there, escaped, self-contained, and readable without colour."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from evidence_sample import at, checks, failed, make_run, opened, planned, unproven, verified, write_journal

from drillbook.cli import console
from drillbook.errors import EvidenceError, EvidenceUnwritable
from drillbook.evidence import record
from drillbook.report import cards
from drillbook.report import page as report

HOSTILE = "<script>alert('x')</script> & \"quoted\""
VOID = {"meta", "br", "wbr", "path", "circle"}


class Tags(HTMLParser):
    """Collects text, attributes and unbalanced tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data + " "

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def page_of(events: list[dict[str, Any]]) -> Tags:
    return Tags(report.html(record(events)))


ENDS = {"verified": verified, "failed": failed, "unproven": unproven, "planned": planned}


def test_users_b_what_is_still_to_come_does_not_read_like_a_failure() -> None:
    events = verified()
    early = events[: next(i for i, event in enumerate(events) if event["type"] == "check") + 1]
    found = record(early)
    missing = sum(check["reason"] == "not run" for check in found["checks"])
    words = page_of(early).words
    assert missing and f"1 of 1 required checks hold so far, {missing} still to come" in words
    assert "unproven" not in words.partition("Checks")[2].partition("Verdict")[0]
    assert "still to come" not in page_of(events).words


@pytest.mark.parametrize(
    ("achieved", "objective", "word"),
    [
        (7.4, None, "no objective"),
        (None, None, "not measured"),
        (None, 60, "not measured"),
        (7.4, 60, "met"),
    ],
    ids=["no objective", "neither", "not seen", "met"],
)
def test_users_b_an_achieved_time_is_not_called_not_measured(
    achieved: float | None, objective: float | None, word: str
) -> None:
    met = None if achieved is None or objective is None else achieved <= objective
    item = {"name": "recovery time", "achieved_seconds": achieved, "objective_seconds": objective, "met": met}
    assert list(console.figures([item]).columns[3].cells) == [word]


def test_users_b_nothing_is_called_verified_while_it_is_unsealed() -> None:
    found = record(verified())
    line = "drillbook finish 20261101T101500Z-1a2b3c --notebook runbooks/x.ipynb"
    for kind, text in cards.verdict_card(found, seal_with=line).items():
        assert "VERIFIED" not in text and line in text and "unsealed" in text.lower(), kind
    assert "VERIFIED" in cards.verdict_card(found)["text/plain"]
    assert "UNPROVEN" in cards.verdict_card(record(unproven()), seal_with=line)["text/plain"], "bad news does not wait"


@pytest.mark.parametrize("end", ENDS)
def test_a_report_is_whole_and_loads_nothing(end: str) -> None:
    page = page_of(ENDS[end]())
    assert (page.open, page.wrong) == ([], [])
    loading = [(tag, name) for tag, name, _ in page.attributes if name in ("src", "href", "srcset", "action")]
    assert loading == []
    assert not re.search(r"url\(|@import|<script", report.html(record(ENDS[end]())))


def test_a_report_opens_with_verdict_figures_and_what_was_not_tested() -> None:
    words = page_of(verified()).words
    order = [
        "VERIFIED",
        "Achieved recovery time 4 min 14 s",
        "✓ met · objective 1 h",
        "Achieved recovery point 1 min 12 s",
        "21 of 21 required checks hold",
        "Where the time went",
        "provision 21 s",
        "The boundary",
        "Target",
        "1,000 rows deleted",
        "Not tested",
        "no cut-over",
        "Caveats of this site",
        "Checks 21 of 21 required checks are verified",
        "Steps",
        "Clean-up",
        "sha256sum -c SHA256SUMS",
    ]
    places = [words.index(part) for part in order]
    assert places == sorted(places)


def test_a_failed_report_names_the_cause_with_expected_and_observed() -> None:
    words = page_of(failed()).words
    assert "FAILED amcheck: synergyflow: expected no finding, observed synergyflow_incidents" in words
    assert "Also: site questions: pending events: expected at most 5, observed 1,381" in words


def test_an_unproven_report_names_what_may_still_be_there_and_what_to_do() -> None:
    words = page_of(unproven()).words
    assert "run drillbook cleanup" in words and "none: it may still be there" in words
    assert "What to do Give the drill's keys read access to the archive" in words
    assert "Recovery time not measured" in words


def test_a_run_that_is_not_closed_says_so() -> None:
    assert "This run is not closed" in page_of(verified()[:30]).words


def test_what_a_site_or_a_server_says_can_not_become_markup() -> None:
    events = verified()
    for event in events:
        if event["type"] == "opened":
            event["site"]["caveats"] = [HOSTILE]
        if event["type"] == "check":
            event |= {"observed": HOSTILE, "verdict": "FAILED", "details": [[HOSTILE, HOSTILE]]}
        if event["type"] == "fact" and event["name"] == "copy":
            event["value"] = {"image": HOSTILE}
    found = record(events)
    for page in (report.html(found), cards.verdict_card(found)["text/html"], cards.run_card(events[0])["text/html"]):
        assert "<script" not in page
        assert "alert(" in page


def test_the_boundary_is_in_order_and_leaves_out_what_was_not_seen() -> None:
    labels = [point["label"] for point in report.boundary(record(verified()))]
    assert labels == [
        "Base backup ends",
        "Marker before",
        "Target",
        "Mistake",
        "Marker after",
    ]
    assert report.boundary(record(verified()[:20])) == []


def test_the_boundary_tells_a_tenants_commit_from_the_second_marker() -> None:
    events = verified()
    for event in events:
        if event["type"] == "fact" and event["name"] == "target":
            event["value"]["first_after"] = {"xid": 918300, "committed_at": at(6.9), "lsn": "0/1"}
    points = {point["label"]: (point["at"], point["detail"]) for point in report.boundary(record(events))}
    assert list(points)[2:] == ["Target", "First commit after", "Mistake", "Marker after"]
    assert points["First commit after"] == (at(6.9), "XID 918300")
    assert points["Marker after"] == (at(8.82), "XID 918275")


def test_a_target_of_ones_own_shows_the_commits_around_it() -> None:
    events = verified()
    for event in events:
        if event["type"] == "fact" and event["name"] == "target":
            event["value"] |= {
                "own_marker": False,
                "first_after": {"xid": 900000, "committed_at": at(6.9), "lsn": "0/1"},
            }
    labels = [point["label"] for point in report.boundary(record(events))]
    assert labels[1:4] == ["Last commit before", "Target", "First commit after"]
    assert "Marker after" not in labels and labels[-1] == "Newest archived commit"


def test_c17_an_annual_restore_shows_how_long_each_backup_took_and_tables_under_their_own_names() -> None:
    found = record(verified())
    took = {"backup_id": "20241230T020000", "retrieval_seconds": 3600.0, "recovery_seconds": 60.0, "size_bytes": 1024}
    facts = {
        "long_term": {"achieved": {"oldest": took}, "ended": {"20241230T020000": "2024-12-30T02:00:00Z"}},
        "long_term_rows": {"20241230T020000": {"shop": {"shop_audit.audit_events": 12}}},
        "claim": "The backups were restored",
    }
    words = Tags(report.html(found | {"facts": found["facts"] | facts})).words
    assert "Oldest backup restored in 1 h 01 min" in words and "retrieval 1 h, recovery 1 min" in words
    assert "shop_audit.audit_events 12" in words and "2024-12-30 02:00:00 UTC" in words
    assert "Claim" not in words and "restored in" not in page_of(verified()).words
    alone = found | {"facts": found["facts"] | facts, "phases": [], "objectives": {"measured": [], "enforced": False}}
    assert "was not seen to end" not in Tags(report.html(alone)).words


def test_long_details_are_folded_unless_the_check_did_not_hold() -> None:
    events = verified()
    seen = [event for event in events if event["type"] == "check"][:2]
    for event, word in zip(seen, ("VERIFIED", "FAILED"), strict=True):
        event |= {"verdict": word, "details": [[f"kind {n}", "equal"] for n in range(4)]}
    page = report.html(record(events))
    assert page.count('<details class="fold"><summary>4 details</summary>') == 1
    assert page.count('<details class="fold" open><summary>4 details</summary>') == 1


def test_a_card_writes_the_fields_of_a_result_for_people() -> None:
    rows = [
        ("own marker", "True"),
        ("begin lsn", "0/4000028"),
        ("fetch seconds", "7.5"),
        ("server version", "180006"),
        ("stopped at", "2026-11-23T07:13:01.961954Z"),
    ]
    words = Tags(cards.step_card(n=1, title="T", rows=rows)["text/html"]).words
    for part in (
        "Own marker yes",
        "Begin LSN 0/4000028",
        "Fetch 7.5 s",
        "Server version 18.6",
        "Stopped at 2026-11-23 07:13:01.961 UTC",
    ):
        assert part in words


def test_a_report_is_written_as_a_whole_and_carries_the_ledgers_digest(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    page = (folder / "report.html").read_text()
    first_line = (tmp_path / "ledger" / "synergyflow.jsonl").read_bytes().splitlines(keepends=True)[0]
    import hashlib

    assert hashlib.sha256(first_line).hexdigest() in page
    assert [path.name for path in folder.glob(".*")] == []


def test_a_folder_without_a_journal_is_refused_and_a_full_disk_told(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="holds no journal"):
        report.render(tmp_path)
    write_journal(tmp_path / "journal.jsonl", verified())
    (tmp_path / "report.html").mkdir()
    with pytest.raises(EvidenceUnwritable, match=r"report\.html can't be written"):
        report.render(tmp_path)


def all_cards() -> dict[str, cards.Bundle]:
    found = record(verified())
    error = {"type": "WalGap", "what": "a\nb", "changed": "nothing", "todo": "look", "verdict": "FAILED"}
    plan: dict[str, Any] = {
        "summary": "one",
        "objects": [{"kind": "Cluster", "metadata": {"name": "x"}, "spec": {"a": [1]}}],
        "sql": ["SELECT 1"],
        "notes": ["two"],
    }
    return {
        "run": cards.run_card(opened()),
        "step": cards.step_card(n=1, title="T", why="because", rows=[("a", "b")] * 20, checks=checks(), seconds=2),
        "planned": cards.step_card(n=1, title="T", effect="creates", status="planned", plan=plan),
        "failed": cards.step_card(n=1, title="T", effect="destroys", status="failed", error=error),
        "not run": cards.step_card(n=1, title="T", status="not run", reason="step 3 failed"),
        "progress": cards.progress_card("T", "waiting", fraction=0.5, rows=[("waited", "3 s")]),
        "endless": cards.progress_card("T", "waiting"),
        "verdict": cards.verdict_card(found),
        "unproven": cards.verdict_card(record(unproven())),
        "plan's verdict": cards.verdict_card(record(planned())),
    }


@pytest.mark.parametrize("name", all_cards())
def test_a_card_is_whole_styled_inline_and_has_a_plain_reading(name: str) -> None:
    bundle = all_cards()[name]
    page = Tags(bundle["text/html"])
    assert (page.open, page.wrong) == ([], [])
    assert not [value for _, attribute, value in page.attributes if attribute in ("class", "id") and value]
    assert bundle["text/plain"]
    assert set(bundle) == {"text/html", "text/plain"}


def test_a_table_holds_twelve_rows_and_says_how_many_more() -> None:
    page = Tags(all_cards()["step"]["text/html"])
    assert "and 8 more rows in the record" in page.words
    assert f"and {len(checks()) - 12} more checks in the record" in page.words


def test_c17_one_row_that_is_left_out_is_one_and_what_all_checks_prove_is_said_once() -> None:
    many = [checks()[0] | {"name": f"cause: {n}", "proves": "this is not the cause"} for n in range(13)]
    html = cards.step_card(n=1, title="Causes", checks=many)["text/html"]
    assert "and 1 more check in the record" in html and html.count("this is not the cause") == 1


def test_c17_a_progress_names_its_rows_as_a_step_does() -> None:
    bundle = cards.progress_card("T", "waiting", rows=[("waited", "3 s")])
    assert all("Waited" in text for text in bundle.values())


@pytest.mark.parametrize("kind", ["text/html", "text/plain"])
def test_c17_a_plan_that_says_no_more_than_its_step_is_not_shown_twice(kind: str) -> None:
    same = cards.step_card(n=1, title="Look again", effect="reads", status="planned", plan={"summary": "Look again"})
    assert same[kind].count("Look again") == 1
    other = cards.step_card(n=1, title="Look again", effect="reads", status="planned", plan={"summary": "Read it"})
    assert "Look again" in other[kind] and "Read it" in other[kind]


def test_the_worst_checks_come_first_on_a_card() -> None:
    seen = checks()
    seen[-1] |= {"verdict": "FAILED"}
    lines = cards.step_card(n=1, title="T", checks=seen)["text/plain"].splitlines()
    assert next(line for line in lines if line.startswith("  ")).startswith("  FAILED    objective: recovery time")


def test_a_plan_shows_manifests_as_they_are() -> None:
    assert "spec:\n  a:\n  - 1" in all_cards()["planned"]["text/html"]


@pytest.mark.parametrize(
    ("count", "shown"), [(None, "–"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (6_241_119_402, "5.8 GiB")]
)
def test_sizes_are_shown_as_people_read_them(count: int | None, shown: str) -> None:
    assert cards.show_bytes(count) == shown
