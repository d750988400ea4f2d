"""One step at a time: gate, clock, journal, obligations. Knows no widget; what it shows are mime bundles."""

from __future__ import annotations

import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

from drillbook.engine import results, run_folders, waiting_runs
from drillbook.engine.approval import who
from drillbook.engine.cluster_lock import require_none_waits
from drillbook.engine.drawing import draw_step, error_json, short
from drillbook.engine.gate import Section, plan_json
from drillbook.engine.gate_keeper import Gatekeeper
from drillbook.engine.handle import Handle
from drillbook.engine.kinds import kind_of
from drillbook.engine.opening import seal_line
from drillbook.engine.parameters import require_as_opened
from drillbook.engine.previous_attempts import PreviousAttempts, PreviousStep
from drillbook.engine.repeats import Done
from drillbook.engine.replay import Replay
from drillbook.engine.retargeting import chosen
from drillbook.engine.show import Display
from drillbook.engine.step import CheckGroup, Checks, CheckStep, Pending, Plan, Step
from drillbook.errors import Changed, NotVerified, RunbookError
from drillbook.evidence import judge, record
from drillbook.evidence.judge import unsettled
from drillbook.model import AskedTarget, Effect, Verdict
from drillbook.profile import Site
from drillbook.report import cards, guidance

T = TypeVar("T")


class Run(Handle):
    """An open run. A notebook calls :meth:`do` once a cell and :meth:`close` in the last."""

    def __init__(
        self,
        folder: Path,
        runbook: str,
        run_id: str,
        site: Site,
        *,
        given: dict[str, Any],
        note: str,
        past: PreviousAttempts | None = None,
        phrase: str = "",
    ) -> None:
        super().__init__(folder, runbook, run_id, site, given=given, note=note, past=past)
        self._gates = Gatekeeper(
            self.context,
            self.observations,
            past=past,
            phrase=phrase,
            make_plan=self._plan,
            go_on=self._enter_present,
            give_back=self._hold.give_back,
        )

    # -- the target --------------------------------------------------------------------------------

    def choose_target(self, **wanted: str) -> None:
        """Go for this target from here on: one of target_time, target_xid, target_lsn, target_name; none: as opened.

        It belongs to the run like the parameters that it was opened with: journalled with who chose it, and confirmed
        at the gates. Raises ParameterError with every fault, and once a gate was passed.
        """
        given = {name: value for name, value in wanted.items() if value}
        with self._acting:
            self._require_open()
            known = self.context.parameters
            if all(known.get(name) == value for name, value in given.items()):
                return
            entry = chosen(self.runbook, self.journal.events(), given, known, self._n + 1)
            self.journal.append("retargeted", actor=who(self.context.kube), **entry)
            self.context.parameters = {**known, **entry["parameters"]}
            self._n = entry["n"] - 1
            self._repeats.forget(entry["n"])

    @property
    def target(self) -> AskedTarget:
        """Where recovery is to stop: as the run was opened with, or as was chosen since."""
        return AskedTarget.of(self.context.parameters)

    # -- a destructive section -------------------------------------------------------------------

    def plan(self, title: str, *steps: Step[Any]) -> Section:
        """Make the plan of every step of a destructive section, and show it: what, why, what is lost, who asked.

        Changes nothing. The steps are then done one a cell, after :meth:`confirm`, as these very objects.
        """
        with self._acting:
            self._require_open()
            for step in steps:
                self._require_same(step)
            section = self._gates.plan(title, steps)
            self._gates.show(section)
            return section

    def confirm(self, section: Section) -> None:
        """The gate: passes once people have confirmed exactly this plan, made again now; in plan mode at once.

        Otherwise the run journals that it waits, gives its Lease back and raises ConfirmationRequired, which says the
        phrase and the ways to give it. Where an earlier step failed, or a required check is not VERIFIED, nobody is
        asked and the section's steps are not run.
        """
        with self._acting:
            self._require_open()
            self._gates.confirm(section)

    def _require_same(self, step: Step[Any]) -> None:
        require_as_opened(self.run_id, self.context.parameters, step)

    def _enter_present(self) -> None:
        """From here on a resumed run acts: what it took from the journal is asked of the world again, once."""
        self._hold.require()
        if self._replay is not None:
            self._replay.ask_again()

    # -- a step --------------------------------------------------------------------------------

    def do(self, step: Step[T]) -> T:
        """Do one step, or plan it, and return its result.

        A step that fails is journalled and shown; its result is then a :class:`Pending`, and what needs it is not
        run, so that later checks still run and what was made is still removed. A refusal (nothing was touched) is
        raised. In a resumed run a step that is complete is not done again: its result comes from the journal. Raises
        NotConfirmed for a step of a destructive section that was not confirmed. A cell that is run again in the same
        kernel gets the recorded result of a step that is done; in plan mode, where nothing is measured, it is planned
        again.
        """
        with self._acting:
            done = (
                self._repeats.find(step, self._gates.section_of(step))
                if self.mode == "apply" and not self._left
                else None
            )
            if done is None:
                self._require_open()
            self._require_same(step)
            return self._do(step) if done is None else cast(T, self._shown_again(done))

    def _shown_again(self, done: Done) -> Any:
        self.observations.begin(done.n, done.step.title, Display(self.masker.mask))
        self.observations.step_checks = list(done.checks)
        self._draw(done.step, "done", result=done.result, plan=done.plan, seconds=done.seconds, reason=done.says)
        return done.result

    def _do(self, step: Step[T]) -> T:
        n = self._n + 1
        past = self._replay.step(n, step) if self._replay is not None else None
        if past is not None and past.complete and self._replay is not None:
            return self._restored(self._replay, step, past)
        unknown = step.unknown
        planned = self.mode == "plan" and (step.effect is not Effect.READS or unknown is not None)
        barred = self._midway.halted or (self._gates.barred(step) if step.gated and not planned else "")
        if not planned and self._replay is not None:
            self._replay.ask_again(undoing=past is not None and step.settles and not step.gated)
        plan, shown, trouble = None, None, None
        if planned or step.gated or step.effect is not Effect.READS:
            try:
                plan = self._plan(step, unknown)
            except RunbookError as error:
                trouble = error
            shown = plan_json(plan) if plan else (past.plan if past else None)
        section = None
        if step.gated and not planned and not barred and unknown is None and (trouble is None or past is not None):
            section = self._gates.admit(step, plan, past)
            trouble = None
        self._n = n
        self.observations.begin(n, step.title, Display(self.masker.mask), undoing=step.settles)
        self.observations.write(
            "step_started",
            n=n,
            step=type(step).__name__,
            title=step.title,
            why=step.why,
            effect=str(step.effect),
            inputs={k: short(v) for k, v in step.inputs.items()},
            plan=shown,
            **({"section": section} if section else {}),
            **(self._midway.begins(step) if section else {}),
        )
        if planned:
            self._finish("planned", 0.0, None, None)
            self._draw(step, "planned", plan=plan)
            return cast(T, Pending(f"known after step {self._n}"))
        if barred or (unknown is not None and not step.settles):
            return self._skip(step, barred or str(unknown))
        if trouble is not None:
            return self._failed(step, trouble, 0.0)
        return self._act(step, plan)

    def _restored(self, replay: Replay, step: Step[T], past: PreviousStep) -> T:
        result = cast(T, replay.restore(step, past))
        self._n = past.n
        self.observations.begin(past.n, step.title, Display(self.masker.mask))
        self.observations.remember(replay.past, past)
        seen_at = datetime.fromisoformat(past.seen_at)
        self._repeats.note(step, past.n, result, past.checks, at=seen_at, section=self._gates.section_of(step))
        self._draw(
            step,
            "done",
            result=result,
            reason=f"from the journal, as it was seen at {seen_at:%H:%M:%S} UTC on {seen_at:%Y-%m-%d}",
        )
        return result

    def _plan(self, step: Step[Any], unknown: Pending | None) -> Plan:
        try:
            return step.plan(self.context)
        except (RunbookError, TypeError) as error:
            if unknown is None:
                raise
            return Plan(summary=f"{step.title}: {error}")

    def _skip(self, step: Step[T], why: str) -> T:
        if isinstance(step, CheckStep | CheckGroup):
            for check in step.not_run(why):
                self.observations.check(check)
        self._finish("not run", 0.0, None, None)
        self._midway.failed(step, f"step {self._n} ({step.title}) was not run: {why}", skipped=True)
        self._draw(step, "not run", reason=why)
        return cast(T, Pending(why))

    def _act(self, step: Step[T], plan: Plan | None) -> T:
        started = datetime.now(UTC)
        changed = Changed.NOTHING
        try:
            if step.effect is not Effect.READS:
                self._require_alone(plan)
            step.check(self.context)
            changed = Changed.UNKNOWN if step.effect is not Effect.READS else Changed.NOTHING
            result = step.do(self.context)
            step.verify(self.context, result)
        except RunbookError as error:
            if error.changed is Changed.NOTHING and not error.rolled_back:
                error.changed = changed
            return self._failed(step, error, _seconds_since(started))
        except BaseException as error:  # an internal error, or Ctrl-C: on disk before it goes up
            self._bug(step, error, _seconds_since(started))
            raise
        if isinstance(result, Checks):
            for check in result.checks:
                self.observations.check(check)
        seconds = _seconds_since(started)
        self._finish("done", seconds, results.dump(step, result), None, lost=self._lost(step, result))
        self._repeats.note(
            step,
            self._n,
            result,
            self.observations.step_checks,
            plan=plan,
            seconds=seconds,
            section=self._gates.section_of(step),
        )
        self._draw(step, "done", result=result, plan=plan, seconds=seconds)
        return result

    def _require_alone(self, plan: Plan | None) -> None:
        """The Lease, before a change. What was opened next to other runs takes it here, and not for a plan without an effect."""
        alone = kind_of(self.runbook).alone
        if not alone and plan is not None and plan.harmless:
            return
        self._hold.require()
        if not alone:  # asked with the Lease in hand: nobody can begin in between
            waiting_runs.require_none_stands(self.site, {self.run_id})
            require_none_waits(self.context.kube, self.site, {folder.name for folder in run_folders.run_dirs()})

    def _failed(self, step: Step[T], error: RunbookError, seconds: float) -> T:
        refused = error.verdict is None
        if look_on := guidance.guide(error.what, run_id=self.run_id, asked_by=self.runbook):
            error.todo = f"{error.todo} {look_on}"
        self._gates.note_failure(step, f"step {self._n} ({step.title}) failed")
        self._finish("refused" if refused else "failed", seconds, None, error_json(error))
        self._midway.failed(step, f"step {self._n} ({step.title}) failed: {error.what}", error=error)
        if refused:
            self._refused = f"step {self._n} ({step.title}): {error.what}"
            self.release()  # the run is over: nothing was touched, and a new one may begin
            raise error
        self._log_traceback(error)
        self._draw(step, "failed", error=error, seconds=seconds)
        return cast(T, Pending(f"not known: step {self._n} ({step.title}) failed"))

    def _bug(self, step: Step[Any], error: BaseException, seconds: float) -> None:
        self._log_traceback(error)
        stopped = isinstance(error, KeyboardInterrupt)
        todo = "The run was interrupted." if stopped else "A bug of Drillbook: report it with logs/errors.log."
        changed = Changed.NOTHING if step.effect is Effect.READS else Changed.UNKNOWN
        what, code = f"{type(error).__name__}: {error}"[:500], 6 if stopped else 70
        shown = {"type": type(error).__name__, "what": what, "changed": str(changed), "todo": todo}
        self._finish("failed", seconds, None, shown | {"verdict": str(Verdict.UNPROVEN), "exit_code": code})
        self._midway.failed(step, f"step {self._n} ended with {type(error).__name__}")

    def _log_traceback(self, error: BaseException) -> None:
        text = "".join(traceback.format_exception(error))
        path = self.folder / "logs" / "errors.log"
        with path.open("a", encoding="utf-8") as file:
            file.write(self.masker.mask(f"step {self._n}: {text}\n"))

    def _lost(self, step: Step[Any], result: Any) -> str:
        """Why no later process can have this result back from the journal, as it is kept there; mostly ""."""
        return results.not_restorable(step, result, self.masker.mask(results.dump(step, result)))

    def _finish(
        self, status: str, seconds: float, result: Any, error: dict[str, Any] | None, *, lost: str = ""
    ) -> None:
        more = {"not_restorable": lost} if lost else {}
        self.observations.write(
            "step_finished", n=self._n, status=status, seconds=round(seconds, 3), result=result, error=error, **more
        )

    # -- closing ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Judge and close the run's record; raises NotVerified unless the verdict is VERIFIED (a plan has none).

        It is sealed after its last cell: by the runner, else by the command that the card names.
        """
        with self._acting:
            if self._left:
                self._require_open()
            if self._midway.halted:
                self.let_go(f"has {self._midway.halted}")
                self._midway.require_not(self.run_id)
            if not self._closed:
                self._closed = True
                judged = judge(self.journal.events())
                self.journal.append("closed", verdict=judged.verdict, reasons=judged.reasons, by="notebook")
                self._gates.bind()
                self.release()
            events = self.journal.events()
            found = judge(events)
            finish = (
                seal_line(self.run_id) if self.mode == "apply" and not (self.folder / "SHA256SUMS").exists() else ""
            )
            self._show(cards.verdict_card(record(events), seal_with=finish))
            if self.mode == "apply" and found.verdict is not None and found.verdict is not Verdict.VERIFIED:
                left = ", ".join(str(event["id"]) for event in unsettled(events))
                raise NotVerified(
                    found.headline,
                    run_verdict=found.verdict,
                    changes=f"still to be undone: {left}" if left else "nothing that is still to be undone",
                    todo=f"Seal it: `{finish}`; then read its report.html."
                    if finish
                    else f"Read report.html of run {self.run_id}; `drillbook verify {self.run_id}` checks the evidence.",
                )

    def _draw(
        self,
        step: Step[Any],
        status: str,
        *,
        result: Any = None,
        plan: Plan | None = None,
        error: RunbookError | None = None,
        reason: str = "",
        seconds: float = 0.0,
    ) -> None:
        try:
            bundle = draw_step(
                self.observations.n, step, status, result, plan, error, reason, seconds, self.observations.step_checks
            )
            if self.observations.display is not None:
                self.observations.display.draw(bundle)
        except Exception as failure:  # a card is only a view: the step is journalled, and its result must be returned
            self._log_traceback(failure)


def _seconds_since(started: datetime) -> float:
    return (datetime.now(UTC) - started).total_seconds()
