"""What people do in a notebook: open again, run a cell again, restart the kernel, give up. In one process."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import nbformat
import pytest
from fix_cells import begin, cells, closed, confirmed, dies, to_the_gate
from fix_drills import DrillLab
from fix_tiny import Tiny
from tiny_steps import Drain, LookAround, MakeThing, Replace

from drillbook.cli import app as cli
from drillbook.cli import headless
from drillbook.engine import Run, resume_run
from drillbook.engine.approval import approve
from drillbook.engine.opening import seal_line
from drillbook.engine.step import Context, Step
from drillbook.errors import NotResumable, NotVerified, ParameterError, RunInProgress
from drillbook.evidence import Journal, record, verify
from drillbook.model import Check, Effect, Frozen, Verdict


@pytest.fixture(scope="module")
def tiny(drill_lab: DrillLab, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The tiny procedure on the lab."""
    return Tiny(drill_lab, tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def site(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A profile; subject and application as before; evidence in a folder of this test's own."""
    monkeypatch.setenv("DRILLBOOK_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("DRILLBOOK_NOTEBOOK", str(tmp_path / "none.ipynb"))
    tiny.prepare()
    yield str(tiny.profile("again"))
    tiny.clear()


def events(run: Run) -> list[dict[str, Any]]:
    return Journal(run.folder / "journal.jsonl").events()


def of(run: Run, kind: str) -> list[dict[str, Any]]:
    return [event for event in events(run) if event["type"] == kind]


def intact(run: Run) -> bool:
    """Whether every run, sealed or not, is as the ledger says; an open one is unfinished, not altered."""
    return not [finding for finding in verify(run.folder.parents[1]) if finding.tampered]


# -- A5: opened again ----------------------------------------------------------------------------


def nothing(run: Run) -> None:
    """Opened and no more."""


def read(run: Run) -> None:
    cells(run, "LookAround")


def refused(run: Run) -> None:
    with pytest.raises(ParameterError, match="it is not ready"):
        run.do(Refuses())


@dataclass(frozen=True)
class Refuses(Step[None]):
    """Is refused: nothing can have been touched."""

    def do(self, ctx: Context) -> None:
        raise ParameterError(["it is not ready"], where="the ground")


@pytest.mark.parametrize("mode", ["apply", "plan"])
@pytest.mark.parametrize("until", [nothing, read, to_the_gate, refused], ids=lambda how: how.__name__)
def test_users_a5_opening_again_supersedes_a_run_that_has_changed_nothing(
    tiny: Tiny, site: str, until: Any, mode: str
) -> None:
    run = begin(site, mode=mode)
    if mode == "plan" and until is to_the_gate:
        cells(run, "ScaleUp")
    else:
        until(run)
    other = begin(site, value="newer")
    assert [event["by"] for event in of(run, "superseded")] == [other.run_id]
    found = record(events(run))["verdict"]
    assert found["verdict"] == (None if mode == "plan" or until is refused else "UNPROVEN")
    if until is not refused:
        assert f"superseded by run {other.run_id}" in found["headline"]
    assert (run.folder / "report.html").exists() and (run.folder / "SHA256SUMS").exists()
    assert intact(other) and verify(run.folder.parents[1], run.folder) == []
    states = {item.run_id: item.state for item in headless.runs()}
    assert states == {run.run_id: "sealed", other.run_id: "running"}

    for act in (lambda: run.do(LookAround()), lambda: run.plan("Again", Drain()), lambda: run.confirm(None)):  # type: ignore[arg-type]
        with pytest.raises(ParameterError, match=f"was superseded by run {other.run_id}"):
            act()
    cells(other, "MakeThing")
    assert tiny.untouched
    headless.abandon(closed(other))


def test_users_a5_a_run_that_has_changed_something_is_not_superseded(tiny: Tiny, site: str) -> None:
    run = cells(begin(site), "MakeThing")
    with pytest.raises(RunInProgress) as refusal:
        begin(site, value="newer")
    assert f"ConfigMap/{tiny.namespace}/tiny-{run.run_id[-6:]} (made by this run)" in refusal.value.what
    for way in (f"drillbook resume {run.run_id}", f"drillbook abandon {run.run_id}", f'resume_run("{run.run_id}")'):
        assert way in refusal.value.todo
    with pytest.raises(ParameterError, match=r"does nothing more: .*RunInProgress"):
        run.do(Drain())
    assert not of(run, "superseded") and len(headless.runs()) == 1
    ended = headless.abandon(run.folder)
    assert (ended.left, ended.outcome.verdict) == ((), "UNPROVEN")
    assert tiny.state()["own"] == 0 and verify(run.folder.parents[1]) == []


@pytest.mark.parametrize(
    "fault",
    [{"mode": "aply"}, {"site": "nowhere.yaml"}, {"target_time": "yesterday"}, {"confirm": "x"}],
    ids=lambda fault: next(iter(fault)),
)
def test_users_a5_a_failed_opening_leaves_no_usable_run_behind(tiny: Tiny, site: str, fault: dict[str, str]) -> None:
    run = begin(site)
    with pytest.raises(ParameterError):
        begin(**({"site": site} | fault))
    with pytest.raises(ParameterError, match="opening the runbook again has failed"):
        run.do(MakeThing(None))  # type: ignore[arg-type]
    assert resume_run(run.run_id) is run
    cells(run, "MakeThing")
    assert tiny.state()["own"] == 1
    headless.abandon(closed(run))


def test_users_a5_a_run_that_was_let_go_and_ended_elsewhere_is_not_taken_up(tiny: Tiny, site: str) -> None:
    run = cells(begin(site), "MakeThing")
    with pytest.raises(ParameterError):
        begin(site, mode="aply")
    headless.abandon(run.folder)
    with pytest.raises(NotResumable, match="it has ended"):
        resume_run(run.run_id)
    with pytest.raises(ParameterError):
        run.do(Drain())
    other = begin(site)
    assert not of(run, "superseded")
    headless.abandon(closed(other))


# -- A8: a cell that is run again ----------------------------------------------------------------


class Measured(Frozen):
    """How often it was measured."""

    times: int


@dataclass(frozen=True)
class Measure(Step[Measured]):
    """Measure something once."""

    effect: ClassVar[Effect] = Effect.CREATES
    times: ClassVar[list[str]] = []
    began: ClassVar[threading.Event] = threading.Event()
    go_on: ClassVar[threading.Event] = threading.Event()

    def do(self, ctx: Context) -> Measured:
        self.began.set()
        self.go_on.wait(60)
        self.times.append(ctx.run_id)
        ctx.recorder.check(Check(name="measured", proves="that it was", verdict=Verdict.VERIFIED, observed="once"))
        return Measured(times=len(self.times))


def test_users_a8_a_done_step_returns_its_recorded_result(tiny: Tiny, site: str) -> None:
    run = begin(site)
    seen = run.do(LookAround())
    made = run.do(MakeThing(seen))
    tiny.remake_subject()
    assert run.do(LookAround()) is seen, "the recorded result, not another look"
    assert run.do(MakeThing(seen)) is made
    with pytest.raises(ParameterError, match="was opened with 'new'"):
        run.do(Replace(seen, "other"))
    assert [event["n"] for event in of(run, "step_started")] == [1, 2]
    assert [event["n"] for event in of(run, "step_finished")] == [1, 2]
    headless.abandon(closed(run))


def test_users_a8_a_step_that_runs_is_joined(tiny: Tiny, site: str) -> None:
    run = begin(site)
    Measure.times.clear()
    Measure.began.clear()
    Measure.go_on.clear()
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(run.do(Measure()))) for _ in range(2)]
    threads[0].start()
    assert Measure.began.wait(60)
    threads[1].start()
    Measure.go_on.set()
    for thread in threads:
        thread.join(60)
    assert len(results) == 2 and results[0] is results[1]
    assert Measure.times == [run.run_id] and len(of(run, "check")) == 1
    headless.abandon(closed(run))


def test_users_a8_the_cells_of_a_section_can_be_run_again(tiny: Tiny, site: str) -> None:
    run = begin(site)
    phrase = confirmed(run)
    dies(run)
    run = begin(site, resume=run.run_id, confirm=phrase)
    for upto in ("Drain", "Drain", "Replace", "Replace", "ScaleUp", "RemoveThing", "RemoveThing", "close"):
        cells(run, upto)  # each time from the first cell on, with step objects of its own
    assert tiny.state() == {"value": "new", "replicas": 3, "own": 0}
    run.do(LookAround())
    assert tiny.history() == [run.run_id]
    assert len(of(run, "confirmed")) == 1 and len(of(run, "waiting")) == 1
    started = [event["step"] for event in of(run, "step_started")]
    assert len(started) == len(set(started)) == 7
    assert record(events(run))["verdict"]["verdict"] == "VERIFIED"


def test_users_a8_a_plan_is_made_again(tiny: Tiny, site: str) -> None:
    run = begin(site, mode="plan")
    first = run.do(LookAround())
    tiny.remake_subject()
    assert run.do(LookAround()).uid != first.uid
    assert len(of(run, "step_started")) == 2


# -- A7: after the kernel was restarted ----------------------------------------------------------


def test_users_a7_no_second_run_is_opened_blindly_beside_one_that_waits(tiny: Tiny, site: str) -> None:
    run = begin(site)
    confirmed(run)
    dies(run)
    with pytest.raises(RunInProgress) as refusal:
        begin(site)
    said = refusal.value.what
    assert f"Run {run.run_id} (change-tiny) waits at gate 1 (Replace the value) since 20" in said
    assert f"holds: ConfigMap/{tiny.namespace}/tiny-" in said
    assert (
        f'resume_run("{run.run_id}")' in refusal.value.todo and f"drillbook abandon {run.run_id}" in refusal.value.todo
    )
    assert len(headless.runs()) == 1, "nothing was made for the run that was refused"
    plan = begin(site, mode="plan")
    assert cells(plan, "ScaleUp"), "a plan changes nothing, and goes on next to it"
    headless.abandon(run.folder)
    other = begin(site)
    headless.abandon(closed(other))


def test_users_a7_a_run_that_waits_on_another_machine_is_named_by_the_lease(
    tiny: Tiny, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(site)
    phrase = confirmed(run)
    dies(run)
    here, there = str(run.folder.parents[1]), str(run.folder.parents[2] / "another machine's")
    monkeypatch.setenv("DRILLBOOK_OUTPUTS", there)
    with pytest.raises(RunInProgress) as refusal:
        begin(site)
    said, todo = refusal.value.what, refusal.value.todo
    assert f"Run {run.run_id} (change-tiny) waits at gate 1 (Replace the value) since" in said and "tiny-" in said
    assert (
        "not in this outputs folder" in said
        and f"drillbook abandon {run.run_id}" in todo
        and "kubectl annotate lease" in todo
    )
    monkeypatch.setenv("DRILLBOOK_OUTPUTS", here)
    resumed = cells(begin(site, resume=run.run_id, confirm=phrase), "Drain")
    monkeypatch.setenv("DRILLBOOK_OUTPUTS", there)
    with pytest.raises(RunInProgress, match="is held by"):
        begin(site)
    headless.abandon(closed(resumed))
    other = begin(site)
    headless.abandon(closed(other))


def test_users_a7_a_run_that_stopped_midway_is_named_too(tiny: Tiny, site: str) -> None:
    run = cells(begin(site), "MakeThing")
    dies(run)
    run.release()
    with pytest.raises(RunInProgress, match=rf"Run {run.run_id} .* stopped midway at step 2 \(Make its own thing\)"):
        begin(site)
    headless.abandon(run.folder)


def test_users_a7_a_run_that_waits_with_empty_hands_does_not_stand_in_the_way(tiny: Tiny, site: str) -> None:
    run = begin(site)
    to_the_gate(run)
    dies(run)
    other = cells(begin(site), "LookAround")
    for one in (run, other):
        headless.abandon(closed(one))


def test_users_a7_it_is_resumed_in_the_notebook(tiny: Tiny, site: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = begin(site)
    phrase = confirmed(run)
    dies(run)
    assert cli.status(["list"]) == 0
    listed = capsys.readouterr().out
    assert re.search(rf"{run.run_id} .* waiting .* UTC", listed) and f"{run.run_id}: holds: ConfigMap/" in listed
    resumed = resume_run(run.run_id)
    assert begin(site) is resumed, "Run All: the cell that opens a run finds the one that was resumed just now"
    assert confirmed(resumed) == phrase, "the open gate is shown again"
    assert [event["step"] for event in of(run, "step_started")] == ["LookAround", "MakeThing"]
    approve(resumed.journal, phrase, resumed.context.kube, how="widget")
    cells(resumed)
    assert tiny.state() == {"value": "new", "replicas": 3, "own": 0}
    assert record(events(resumed))["verdict"]["verdict"] == "VERIFIED"
    with pytest.raises(NotResumable, match="it has ended"):
        resume_run(run.run_id)


# -- A9: given up ---------------------------------------------------------------------------------


def saved(folder: Path, run_id: str) -> Path:
    """A notebook as JupyterLab saves it while a run is under way."""
    notebook = nbformat.v4.new_notebook()
    card = nbformat.v4.new_output("display_data", {"text/plain": f"change-tiny · Run {run_id}"})
    notebook.cells = [nbformat.v4.new_code_cell("run = open_run()", outputs=[card])]
    path = folder / "stepped through.ipynb"
    nbformat.write(notebook, path)
    return path


@pytest.mark.parametrize("how", ["opened in it", "named", "of another run"])
def test_users_a9_abandoning_keeps_the_executed_copy_and_verifies(
    tiny: Tiny, site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    path = saved(tmp_path, "")
    if how != "named":
        monkeypatch.setenv("JPY_SESSION_NAME", str(path))
    run = cells(begin(site), "MakeThing")
    saved(tmp_path, "another" if how == "of another run" else run.run_id)
    found = headless.abandon(closed(run), notebook=path if how == "named" else None)
    kept = run.folder / "executed.ipynb"
    assert kept.exists() is (how != "of another run")
    assert not kept.exists() or (kept.read_bytes() == path.read_bytes() and (run.folder / "executed.html").exists())
    assert found.left == () and verify(run.folder.parents[1]) == []
    assert [item.state for item in headless.runs()] == ["sealed"]


# -- the closing card ------------------------------------------------------------------------------


def test_users_b_the_end_names_the_command_that_seals_it(
    tiny: Tiny, site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, "")
    monkeypatch.setenv("JPY_SESSION_NAME", str(path))
    run = begin(site)
    line = f"drillbook finish {run.run_id} --notebook '{path}'"
    assert seal_line(run.run_id) == line
    run.do(LookAround())
    with pytest.raises(NotVerified) as unproven:
        run.close()
    assert line in unproven.value.todo
    assert "Changed so far: nothing that is still to be undone" in unproven.value.lines()
    assert headless.finish(run.folder, path).verdict == "UNPROVEN"
    with pytest.raises(NotVerified) as sealed:
        run.close()
    assert "report.html" in sealed.value.todo and "finish" not in sealed.value.todo
    assert verify(run.folder.parents[1]) == []


def test_users_b_approve_shows_the_plan_before_it_asks(
    tiny: Tiny, site: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begin(site)
    phrase = confirmed(run)
    dies(run)
    assert cli.status(["approve", run.run_id]) == 4, "there is no terminal to ask on"
    said = capsys.readouterr()
    assert f'Give --phrase "{phrase}"' in said.err
    for words in (
        "waits at: Replace the value",
        "lost: the old value 'old'",
        "scale Deployment drillbook-drills/tiny-app",
        "value = new",
        "Scale the application to nothing (changes): tiny-app to 0 replicas",
        run.run_id,
    ):
        assert words in said.out
    assert not of(run, "approved")
    assert cli.status(["approve", run.run_id, "--phrase", phrase]) == 0
    said = capsys.readouterr()
    assert said.out.index("lost: the old value") < said.out.index("approved by ")
    assert len(of(run, "approved")) == 1
    headless.abandon(run.folder)
    assert cli.status(["approve", run.run_id, "--phrase", phrase]) == 4
    assert "does not wait" in capsys.readouterr().err
