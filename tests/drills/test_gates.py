"""A destructive section waits for people: nothing has changed before, and only the plan that was confirmed is done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fix_drills import DrillLab
from fix_tiny import Tiny, phrase_of, write_notebook


@pytest.fixture(scope="module")
def tiny(drill_lab: DrillLab, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The tiny procedure as a notebook."""
    return Tiny(drill_lab, write_notebook(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(autouse=True)
def as_before(tiny: Tiny) -> Iterator[None]:
    """Subject and application are recreated for each test, and taken away after it."""
    tiny.prepare()
    yield
    tiny.clear()


def own(tiny: Tiny, context: str) -> tuple[str, ...]:
    """Somebody's own credentials."""
    return ("--kubeconfig", str(tiny.lab.home / "kubeconfig"), "--context", context)


@pytest.mark.long
def test_two_different_people_confirm_and_both_are_in_the_record(tiny: Tiny, tmp_path: Path) -> None:
    run = tiny.run(tiny.profile("two-people", approvals={"people": 2, "deadline": "2h"}))
    assert run.code == 3, run.said
    assert tiny.untouched
    phrase = phrase_of(run)
    assert phrase in run.said and "drillbook approve" in run.said
    assert "ConfigMap/drillbook-drills/tiny-" in run.said and "kept until" in run.said
    assert "lost: the old value 'old'" in run.said

    refused = tiny.approve(run, "shared-postgres 00000000", *own(tiny, "lab-admin"))
    assert refused.code == 4 and "is not the phrase" in refused.said
    nobody = tmp_path / "kubeconfig"
    nobody.write_text(
        (tiny.lab.home / "kubeconfig").read_text().replace("server: https", "server: https://127.0.0.1:9 #")
    )
    refused = tiny.approve(run, phrase, "--kubeconfig", str(nobody), "--context", "lab")
    assert refused.code == 4 and "only declared" in refused.said

    assert tiny.approve(run, phrase).code == 0  # the one who asked is one of the two
    refused = tiny.approve(run, phrase)
    assert refused.code == 4 and "lab-admin has approved this plan already: another person must" in refused.said
    assert tiny.approve(run, phrase, *own(tiny, "lab")).code == 0
    assert tiny.untouched

    done = tiny.resume(run)
    assert (done.code, done.verdict) == (0, "VERIFIED"), done.said
    assert tiny.state() == {"value": "new", "replicas": 3, "own": 0}
    (gate,) = done.record["who"]["approver"]
    people = [(approval["actor"]["username"], approval["actor"]["strength"]) for approval in gate["approvals"]]
    assert people[0] == ("lab-admin", "api") and people[1][1] == "api" and people[1][0] != "lab-admin"
    assert gate["digest"].startswith(phrase.split()[1])
    assert done.record["circumstances"]["waiting_at_gates_seconds"] > 0
    assert [step["status"] for step in done.record["steps"]] == ["done"] * 7
    assert {path.name for path in run.folder.glob("*.ipynb")} == {"executed.ipynb", "executed-2.ipynb"}
    assert tiny.lab.drillbook("verify", run.folder.name).returncode == 0
    assert tiny.resume(run).code == 4, "a run that has ended is not resumed"


@pytest.mark.long
def test_a_plan_that_changed_after_the_confirmation_voids_the_phrase(tiny: Tiny) -> None:
    run = tiny.run(tiny.profile("one-person"))
    first = phrase_of(run)
    listed = tiny.lab.drillbook("list").stdout
    assert any(run.folder.name in line and " waiting " in line for line in listed.splitlines()), listed
    tiny.remake_subject()

    again = tiny.resume(run, confirm=first)
    assert again.code == 3, again.said
    second = phrase_of(again)
    assert second != first and "the plan has changed" in again.said
    assert tiny.untouched
    refused = tiny.resume(run, confirm=first)
    assert refused.code == 4 and "is not the phrase" in refused.said

    cleaned = tiny.lab.drillbook("cleanup", "--site", str(tiny.lab.profile)).stdout
    assert f"run {run.folder.name}: left as it is until" in cleaned
    ended = tiny.abandon(run)
    assert ended.code == 0, ended.said
    assert tiny.untouched and tiny.state()["own"] == 0
    assert ended.verdict == "UNPROVEN" and "abandoned by lab-admin" in ended.headline
    assert "the plan of 'Replace the value' changed while it waited" in str(ended.record["deviations"]["findings"])
