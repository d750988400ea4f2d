"""What a gate shows first: run, tenant, target, what is undone, lost and out of service; the plan folded beneath."""

from __future__ import annotations

from typing import Any

import pytest

from drillbook.cli.console import gate_lines
from drillbook.engine.gate import plan_json
from drillbook.engine.gate_card import section_card, who_confirmed
from drillbook.engine.plan import Action, Plan
from drillbook.engine.stakes import stakes
from drillbook.evidence.facts import Facts

OPENED = {"run_id": "20261128T021044Z-1a2b3c", "cluster": {"namespace": "cnpg-system", "name": "shared-postgres"}}
GIVEN = {"database": "synergyflow", "target_time": "2026-11-28T02:10:44.793001Z", "target_xid": ""}


def candidate(xid: int, lsn: str, **changes: Any) -> dict[str, Any]:
    return {
        "xid": xid,
        "committed_at": "2026-11-28T02:10:44.793002Z",
        "lsn": lsn,
        "database": "synergyflow",
        "what": "12 rows deleted from synergyflow_knowledge.articles",
        "weight": 12,
    } | changes


def rows(found: list[dict[str, Any]], first_after: str | None, **given: str) -> dict[str, str]:
    commit = {"committed_at": "2026-11-28T02:10:40Z", "xid": 1720, "lsn": "0/5000000"}
    target = {"last_before": commit, "first_after": first_after and commit | {"xid": 1721, "lsn": first_after}}
    seen = {"damage": {"found": found}, "target": target}
    return dict(stakes(OPENED, GIVEN | given, Facts.read(seen)))


def test_users_a3_the_gate_says_what_this_target_undoes() -> None:
    found = rows([candidate(1721, "0/6000000")], "0/6000000")
    assert found["run"] == OPENED["run_id"] and found["tenant"] == "synergyflow"
    assert found["target"] == "time 2026-11-28 02:10:44.793 UTC"
    assert "XID 1720" in found["last commit kept"]
    assert found["undone"].startswith("XID 1721 at 2026-11-28 02:10:44.793 UTC (synergyflow: 12 rows deleted")
    assert "NOT undone" not in found


@pytest.mark.parametrize("first_after", [None, "0/7000000"], ids=["end of the archive", "a target after it"])
def test_users_a3_the_gate_warns_that_this_target_brings_the_damage_back(first_after: str | None) -> None:
    found = rows([candidate(1721, "0/6000000")], first_after, target_time="")
    assert found["target"] == "end of the archive"
    assert found["NOT undone"].startswith("XID 1721") and "recovery brings it back" in found["NOT undone"]
    assert "undone" not in found


@pytest.mark.parametrize(("database", "undone"), [("synergyflow", False), ("gitlab", True), ("", True)])
def test_users_a3_another_tenants_damage_counts_only_where_the_whole_cluster_goes_back(
    database: str, undone: bool
) -> None:
    found = rows([candidate(1721, "0/6000000", database="gitlab")], "0/6000000", database=database)
    assert ("XID 1721" in found["undone"]) is undone


LOSSES = [
    {
        "database": name,
        "in_copy": "2026-11-28T02:10:00Z",
        "in_production": "2026-11-28T02:13:00Z" if commits else "2026-11-28T02:10:00Z",
        "commits": commits,
    }
    for name, commits in (("synergyflow", 12), ("gitlab", 3), ("harbor", 0))
]


@pytest.mark.parametrize(
    ("database", "said"),
    [
        ("synergyflow", "synergyflow 12 commits (3 min of work)"),
        ("harbor", "none"),
        ("", "synergyflow 12 commits (3 min of work); gitlab 3 commits (3 min of work)"),
    ],
)
def test_the_gate_says_whose_commits_leave_service(database: str, said: str) -> None:
    found = dict(stakes(OPENED, GIVEN | {"database": database}, Facts.read({"losses": LOSSES})))
    assert found["commits lost from service"] == said


def test_the_gate_says_how_long_it_takes_as_predicted_until_it_is_measured() -> None:
    cut = {"name": "cut over", "seconds": 20, "low": 10, "high": 40}
    forecast = {"seconds": 90, "low": 60, "high": 200, "source": "earlier runs", "phases": [cut]}
    found = dict(stakes(OPENED, GIVEN, Facts.read({"forecast": forecast})))
    assert found["recovery is predicted to take"] == "1 min 30 s (1 min to 3 min 20 s)"
    assert found["outage of earlier cuts"] == "20 s (10 s to 40 s)"
    later = dict(stakes(OPENED, GIVEN, Facts.read({"forecast": forecast, "achieved": {"recovery_seconds": 84}})))
    assert later["the copy was recovered in"] == "1 min 24 s" and "recovery is predicted to take" not in later
    unknown = dict(stakes(OPENED, GIVEN, Facts.read({"forecast": {"seconds": None, "phases": []}})))
    assert unknown["recovery is predicted to take"] == "unknown"


def test_a_gate_without_target_or_tenant_shows_no_such_row() -> None:
    assert [name for name, _ in stakes(OPENED, {"value": "new"}, Facts())] == ["run", "cluster"]


def card(**more: Any) -> dict[str, str]:
    plan = plan_json(
        Plan(
            summary="Scale it",
            touches=(Action("scale", "Deployment", "shop", "web"),),
            sql=("SELECT 1",),
            lost=("the sessions",),
            outage=("web, about 40 s",),
        )
    )
    steps = [{"title": "Scale to zero", "why": "", "effect": "changes", "plan": plan, "begun": False}]
    return section_card(
        title="Put it into service",
        top=[("run", "r1"), ("target", "end of the archive")],
        steps=steps,
        lost=plan["lost"],
        outage=plan["outage"],
        **more,
    )


def test_users_b_what_matters_stands_above_the_folded_plan() -> None:
    html = card(phrase="shared 0123abcd", asks="waiting for you")["text/html"]
    order = [
        html.index(words)
        for words in ("end of the archive", "the sessions", "web, about", "<details", "SELECT 1", "shared 0123abcd")
    ]
    assert order == sorted(order)
    assert "<details open" not in html and "Waiting for you" in html
    assert "<details open" in card(unfolded=True)["text/html"], "a plan that is only looked at is not folded"


def test_c17_a_gate_of_one_step_says_above_its_fold_what_is_changed() -> None:
    """Its step's title may be as general as "make the fix": what is confirmed must be in sight."""
    above = card(phrase="shared 0123abcd", asks="waiting for you")["text/html"].partition("</summary>")[0]
    assert "The exact plan: 1 step" in above and "Scale it" in above
    once = card(unfolded=True)["text/html"]
    assert once.count("Scale it") == 1, "unfolded it stands in the plan itself"


def test_c17_a_gate_at_which_there_is_nothing_to_do_is_not_called_destructive() -> None:
    plan = plan_json(Plan(summary="Nothing: there is nothing to fix", harmless=True))
    steps = [{"title": "Make the fix", "why": "", "effect": "changes", "plan": plan, "begun": False}]
    for kind, text in section_card(title="Fix the cause", steps=steps, confirmed=who_confirmed([])).items():
        assert "destructive" not in text.lower() and "lost" not in text, kind
        assert "Nothing: there is nothing to fix" in text and "nothing here has to be confirmed" in text, kind


def test_users_b_the_card_says_who_confirmed_it_and_when() -> None:
    given = [
        {"actor": {"username": name}, "at": f"2026-11-28T02:1{n}:00.123456Z"} for n, name in enumerate(("kim", "lee"))
    ]
    said = who_confirmed(given)
    assert said == "confirmed by kim at 2026-11-28 02:10:00 UTC, lee at 2026-11-28 02:11:00 UTC"
    assert said in card(confirmed=said)["text/plain"]
    assert all(
        one in card(confirmed=said)["text/html"]
        for one in ("confirmed by kim at ", "2026-11-28 02:10:00 UTC", ", lee at ")
    )


@pytest.mark.parametrize("whole", [False, True], ids=["while it runs", "before it is approved"])
def test_users_b_the_terminal_shows_target_damage_and_loss(whole: bool) -> None:
    plan = plan_json(
        Plan(summary="Scale it", touches=(Action("scale", "Deployment", "shop", "web"),), sql=("SELECT 1",))
    )
    waiting = {
        "section": "Put it into service",
        "lost": ["the sessions"],
        "outage": ["web, about 40 s"],
        "top": [["target", "end of the archive"], ["NOT undone", "XID 1721"]],
        "steps": [{"title": "Scale to zero", "effect": "changes", "plan": plan}],
    }
    said = "\n".join(line.plain for line in gate_lines(waiting, whole=whole))
    for words in (
        "end of the archive",
        "XID 1721",
        "lost: the sessions",
        "out of service: web",
        "Scale to zero (changes): Scale it",
    ):
        assert words in said
    assert ("scale Deployment shop/web" in said and "SELECT 1" in said) is whole
