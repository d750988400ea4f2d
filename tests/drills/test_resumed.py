"""A run that stopped goes on from its journal, or is undone; a gate lets only what was confirmed pass. In one process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fix_cells import begin, cells, closed, confirmed, dies, to_the_gate
from fix_drills import DrillLab
from fix_tiny import Tiny, steady
from pydantic import Field
from tiny_steps import APP, Drain, LookAround, MakeThing, Replace, ScaleUp, ValueIsNew

from drillbook import kube as k8s
from drillbook.cli import headless
from drillbook.engine import lease_name, undo
from drillbook.engine.step import Context, Pending, Plan, Step
from drillbook.errors import (
    ConfirmationRequired,
    ConflictError,
    LeaseLost,
    NotConfirmed,
    NotResumable,
    ParameterError,
    PreconditionError,
    RunInProgress,
)
from drillbook.evidence import Journal, record, verify
from drillbook.kube.kinds import DEPLOYMENT
from drillbook.model import Effect, Frozen

STEPS = ["LookAround", "MakeThing", "Drain", "Replace", "ScaleUp", "ValueIsNew", "RemoveThing"]


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
    yield str(tiny.profile("resumed"))
    tiny.clear()


@pytest.mark.long
def test_every_step_can_be_the_last_before_a_kill(tiny: Tiny, site: str) -> None:
    run = begin(site)
    phrase = confirmed(run)
    dies(run)
    undisturbed = cells(begin(site, resume=run.run_id, confirm=phrase))
    whole = steady(record(undisturbed.journal.events()))
    for last in STEPS:
        tiny.prepare()
        run = begin(site)
        if last in ("LookAround", "MakeThing"):
            dies(cells(run, last))
            run = begin(site, resume=run.run_id)
        phrase = confirmed(run)
        dies(run)
        if last not in ("LookAround", "MakeThing"):
            run = cells(begin(site, resume=run.run_id, confirm=phrase), last)
            dies(run)
        run = cells(begin(site, resume=run.run_id, confirm=phrase))
        again = steady(record(run.journal.events()))
        assert again["verdict"]["verdict"] == "VERIFIED"
        assert again["steps"] == whole["steps"], last
        assert again["checks"] == whole["checks"] and again["cleanup"] == whole["cleanup"], last
        assert tiny.state() == {"value": "new", "replicas": 3, "own": 0}, last
        started = [event["step"] for event in run.journal.events() if event["type"] == "step_started"]
        assert started == STEPS, f"nothing that is complete is done again: {last}"


def test_a_gated_step_is_done_only_behind_its_gate(tiny: Tiny, site: str) -> None:
    run = begin(site)
    seen = run.do(LookAround())
    with pytest.raises(NotConfirmed, match="was not confirmed"):
        run.do(Drain())
    section = run.plan("Replace the value", replace := Replace(seen, "new"))
    with pytest.raises(ConfirmationRequired):
        run.confirm(section)
    with pytest.raises(NotConfirmed):
        run.do(replace)
    assert tiny.untouched
    assert headless.abandon(closed(run)).left == ()


def test_in_plan_mode_the_gate_lets_everything_pass_and_nothing_happens(tiny: Tiny, site: str) -> None:
    run = cells(begin(site, mode="plan"))
    assert record(run.journal.events())["verdict"]["outcome"] == "planned"
    assert tiny.untouched and tiny.state()["own"] == 0


def test_a_plan_that_changes_behind_the_gate_waits_again(tiny: Tiny, site: str) -> None:
    run = begin(site)
    phrase = confirmed(run)
    dies(run)
    run = begin(site, resume=run.run_id, confirm=phrase)
    seen = run.do(LookAround())
    run.do(MakeThing(seen))
    section = run.plan("Replace the value", drain := Drain(), Replace(seen, "new"), ScaleUp())
    run.confirm(section)
    tiny.clear()
    tiny.prepare()
    with pytest.raises(ConfirmationRequired, match="the plan has changed since it was confirmed"):
        run.do(drain)
    assert tiny.untouched
    headless.abandon(closed(run))


def test_one_run_at_a_time_and_a_gate_gives_the_lease_back(
    tiny: Tiny, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(site)
    monkeypatch.setenv("DRILLBOOK_OUTPUTS", str(run.folder.parents[2] / "of another machine"))
    with pytest.raises(RunInProgress, match=run.run_id):
        begin(site)
    to_the_gate(run)
    dies(run)
    other = begin(site)
    monkeypatch.setenv("DRILLBOOK_OUTPUTS", str(run.folder.parents[1]))
    with pytest.raises(RunInProgress, match=other.run_id):
        begin(site, resume=run.run_id)
    assert [event["type"] for event in Journal(run.folder / "journal.jsonl").events()][-1] == "waiting"
    dies(other)
    other.release()
    headless.abandon(closed(other))
    headless.abandon(run.folder)


def test_a_lease_that_was_lost_stops_every_further_change(tiny: Tiny, site: str) -> None:
    run = begin(site)
    phrase = confirmed(run)
    dies(run)
    run = cells(begin(site, resume=run.run_id, confirm=phrase), "Drain")
    take_away(tiny)
    replace = next(step for section in run._gates._confirmed for step in section.steps if isinstance(step, Replace))
    assert isinstance(run.do(replace), Pending)
    failed = run.journal.events()[-1]
    assert failed["status"] == "failed" and failed["error"]["type"] == LeaseLost.__name__
    assert tiny.state()["value"] == "old"

    left = headless.abandon(closed(run))
    assert any("spec.replicas" in line for line in left.left), "what another run may be acting on is not put back"
    assert tiny.state()["replicas"] == 0
    free(tiny)


def take_away(tiny: Tiny) -> None:
    spec = {"holderIdentity": "somebody-else", "leaseDurationSeconds": 3600}
    tiny.lab.admin.patch(k8s.LEASE, tiny.lab.site.drillbook_namespace, lease_name(tiny.lab.site), {"spec": spec})


def free(tiny: Tiny) -> None:
    place = (k8s.LEASE, tiny.lab.site.drillbook_namespace, lease_name(tiny.lab.site))
    found = tiny.lab.admin.get(*place)
    assert found is not None
    tiny.lab.admin.delete(*place, uid=found["metadata"]["uid"])


def test_it_goes_on_only_as_it_was_begun(tiny: Tiny, site: str) -> None:
    run = begin(site)
    confirmed(run)
    with pytest.raises(NotResumable, match="running kernel"):
        begin(site, resume=run.run_id)
    dies(run)
    with pytest.raises(NotResumable, match=r"other parameters \(value\)"):
        begin(site, resume=run.run_id, value="newer")
    with pytest.raises(NotResumable, match="profile"):
        begin(str(tiny.profile("other", approvals={"people": 2})), resume=run.run_id)
    with pytest.raises(ParameterError, match="confirm"):
        begin(site, confirm="shared-postgres 12345678")
    resumed = begin(site, resume=run.run_id)
    with pytest.raises(NotResumable, match="its step 1 was LookAround"):
        resumed.do(Drain())
    dies(resumed)
    headless.abandon(run.folder)
    with pytest.raises(NotResumable, match="it has ended"):
        begin(site, resume=run.run_id)


def test_what_was_seen_is_asked_again(tiny: Tiny, site: str) -> None:
    run = begin(site)
    phrase = confirmed(run)
    dies(run)
    for item in tiny.lab.admin.list(k8s.CONFIG_MAP, tiny.namespace, labels="drillbook.io/run"):
        tiny.lab.admin.delete(k8s.CONFIG_MAP, tiny.namespace, item["metadata"]["name"], uid=item["metadata"]["uid"])
    run = begin(site, resume=run.run_id, confirm=phrase)
    with pytest.raises(NotResumable, match=r"step 2 .* no longer holds"):
        cells(run)
    assert tiny.untouched
    assert headless.abandon(closed(run)).left == ()


class Remembered(Frozen):
    """Part of it never leaves the process."""

    value: str
    secret: str = Field(default="", exclude=True)


@dataclass(frozen=True)
class Remember(Step[Remembered]):
    """Remember something."""

    effect: ClassVar[Effect] = Effect.CREATES

    def do(self, ctx: Context) -> Remembered:
        return Remembered(value="seen", secret="of this process")


def test_a_result_that_the_journal_does_not_hold_is_not_guessed(tiny: Tiny, site: str) -> None:
    run = begin(site)
    run.do(Remember())
    dies(run)
    with pytest.raises(NotResumable, match=r"step 1 \(Remember something\) can't be restored"):
        begin(site, resume=run.run_id)
    headless.abandon(run.folder)


def test_abandon_puts_back_what_is_still_as_the_run_set_it(tiny: Tiny, site: str) -> None:
    run = begin(site)
    phrase = confirmed(run)
    dies(run)
    dies(cells(begin(site, resume=run.run_id, confirm=phrase), "Replace"))
    found = headless.abandon(run.folder)
    assert tiny.state() == {"value": "new", "replicas": 3, "own": 0}
    (left,) = found.left
    assert "step 4, Replace the subject's value: done, and not undone (lost: the old value 'old')" in left
    assert found.outcome.verdict == "UNPROVEN"


def test_what_another_hand_changed_is_left_to_it(tiny: Tiny, site: str) -> None:
    run = begin(site)
    phrase = confirmed(run)
    dies(run)
    dies(cells(begin(site, resume=run.run_id, confirm=phrase), "Drain"))
    tiny.lab.admin.patch(DEPLOYMENT, tiny.namespace, APP, {"spec": {"replicas": 2}})
    found = headless.abandon(run.folder)
    assert tiny.state()["replicas"] == 2
    (left,) = found.left
    assert f"Deployment/{tiny.namespace}/{APP}:spec.replicas" in left
    assert "neither as it was" in str(Journal(run.folder / "journal.jsonl").events())


def test_a_change_done_again_keeps_the_first_old_value(tiny: Tiny, site: str) -> None:
    run = begin(site)
    place = (DEPLOYMENT, tiny.namespace, APP)
    note = {"metadata": {"annotations": {"example.com/paused": "yes"}}}
    for _ in range(2):
        promise = undo.change(run.context, *place, note | {"spec": {"replicas": 1}}, "paused")
    assert promise is not None and promise.undo is not None
    assert promise.undo["patch"] == {"metadata": {"annotations": {"example.com/paused": None}}, "spec": {"replicas": 3}}
    assert promise.id.endswith(":metadata.annotations.example.com/paused,spec.replicas")
    how, proof = undo.put_back(run.context.kube, promise.undo)
    assert how == "put back" and "no metadata.annotations.example.com/paused" in proof
    assert undo.put_back(run.context.kube, promise.undo)[0] == "put back", "safe to repeat"
    tiny.lab.admin.patch(*place, {"spec": {"replicas": 5}})
    with pytest.raises(ConflictError):
        undo.put_back(run.context.kube, promise.undo)
    assert undo.put_back(run.context.kube, promise.undo | {"uid": "another"})[0] == "nothing to put back"
    headless.abandon(closed(run))


def test_an_old_value_that_holds_a_secret_is_not_promised(tiny: Tiny, site: str) -> None:
    run = begin(site)
    run.context.mask("a-secret-of-the-site")
    tiny.lab.admin.patch(
        DEPLOYMENT, tiny.namespace, APP, {"metadata": {"annotations": {"url": "a-secret-of-the-site"}}}
    )
    with pytest.raises(PreconditionError, match="holds a secret"):
        change = {"metadata": {"annotations": {"url": "new"}}}
        undo.change(run.context, DEPLOYMENT, tiny.namespace, APP, change, "the address")
    assert "a-secret-of-the-site" not in (run.folder / "journal.jsonl").read_text()
    headless.abandon(closed(run))


@dataclass(frozen=True)
class Fails(Step[Frozen]):
    """Fail."""

    def do(self, ctx: Context) -> Frozen:
        raise PreconditionError("the ground is not as it must be", todo="Fix it.")


@dataclass(frozen=True)
class OnDoubtfulGround(Step[None]):
    """Change something on a doubtful ground."""

    effect: ClassVar[Effect] = Effect.CHANGES
    gated: ClassVar[bool] = True
    ground: Any

    def plan(self, ctx: Context) -> Plan:
        return Plan(summary="nothing good")

    def do(self, ctx: Context) -> None:
        raise AssertionError("it was done")


def test_nobody_is_asked_while_an_earlier_step_has_failed(tiny: Tiny, site: str) -> None:
    run = begin(site)
    step = OnDoubtfulGround(run.do(Fails()))
    run.confirm(run.plan("A section", step))
    assert isinstance(run.do(step), Pending)
    assert [event["status"] for event in run.journal.events() if event["type"] == "step_finished"] == [
        "failed",
        "not run",
    ]
    assert not [event for event in run.journal.events() if event["type"] == "waiting"]
    headless.abandon(closed(run))


def test_users_a2_a_parameter_that_was_changed_after_opening_is_refused(tiny: Tiny, site: str) -> None:
    run = begin(site)
    seen = run.do(LookAround())
    with pytest.raises(ParameterError, match=r"value is 'other' in .*was opened with 'new'"):
        run.plan("Replace the value", Replace(seen, "other"))
    with pytest.raises(ParameterError, match="was opened with 'new'"):
        run.do(ValueIsNew(seen, "other"))  # type: ignore[arg-type]
    assert tiny.untouched
    headless.abandon(closed(run))
    assert verify(run.folder.parent.parent, run.folder) == [], "users A9: no executed copy was kept, and none is missed"


@dataclass(frozen=True)
class Refuses(Step[None]):
    """Is refused: nothing can have been touched."""

    def do(self, ctx: Context) -> None:
        raise ParameterError(["it is not ready"], where="the ground")


def test_users_a2_no_gate_opens_after_a_step_that_was_refused(tiny: Tiny, site: str) -> None:
    run = begin(site)
    seen = run.do(LookAround())
    section = run.plan("Replace the value", drain := Drain(), Replace(seen, "new"), ScaleUp())
    with pytest.raises(ParameterError, match="it is not ready"):
        run.do(Refuses())
    for go_on in (lambda: run.confirm(section), lambda: run.do(drain), lambda: run.plan("Again", drain)):
        with pytest.raises(ParameterError, match="was refused at step 2"):
            go_on()
    assert tiny.untouched
    headless.abandon(closed(run))
