"""One step at a time: gate, clock, journal, obligations. Knows no widget; what it shows are mime bundles."""

from __future__ import annotations

import os
import secrets
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

from drillbook import cards
from drillbook.errors import Changed, NotVerified, ParameterError, RunbookError
from drillbook.evidence import Ledger, Masker, gates, judge, record
from drillbook.model import Effect, Verdict
from drillbook.run import places, results
from drillbook.run.alive import RunLock
from drillbook.run.approving import who
from drillbook.run.drawing import draw_step, error_json, short
from drillbook.run.gate import Section, plan_json
from drillbook.run.gatekeeping import Gatekeeper
from drillbook.run.holding import Hold
from drillbook.run.kinds import kind_of
from drillbook.run.midway import Midway
from drillbook.run.observing import Observations
from drillbook.run.opening import notebook_sha256, opening, package_sha256, public_names, validate, waivers
from drillbook.run.parameters import require_as_opened
from drillbook.run.past import Past, PastStep
from drillbook.run.replay import Replay
from drillbook.run.show import Display, mask_outputs
from drillbook.site import Site
from drillbook.step import Checks, Context, Later, Plan, Rung, Rungs, Step

T = TypeVar("T")


def open_run(
    runbook: str,
    *,
    site: str = "",
    mode: str = "plan",
    note: str = "",
    run: str = "",
    resume: str = "",
    confirm: str = "",
    **parameters: str | int | bool,
) -> Run:
    """Open a run: check the parameters, make its folder, journal who and what, take the Lease.

    A plan takes none, and neither does a runbook that only reads.

    ``site`` is a profile's path or name (empty: ``$DRILLBOOK_SITE``, else ``lab``); ``parameters`` are the runbook's
    own. ``resume`` (or ``run``, as a notebook's parameter is called) goes on with that run instead: what it has seen
    comes from its journal, and ``confirm`` is the phrase of the gate at which it waits. Raises ParameterError with
    every fault, EvidenceUnwritable before anything is touched, RunInProgress if another run holds the cluster,
    NotResumable if that run can't go on as it was begun.
    """
    earlier = resume or run or os.environ.pop("DRILLBOOK_RESUME", "")
    phrase = " ".join((confirm or os.environ.pop("DRILLBOOK_CONFIRM", "")).split())
    if phrase and not earlier:
        fault = "confirm: a phrase confirms the plan of one run; give that run's id too"
        raise ParameterError([fault], where="parameters and profile")
    profile = validate(site=site, mode=mode, parameters=parameters)
    given = {"site": site, "mode": mode} | parameters
    if earlier:
        past = Past(places.find_run(earlier))
        past.require_resumable()
        digest = notebook_sha256(str(past.opened["runbook"]))
        past.require_same(profile=profile, notebook_sha256=digest, given=given, runbook=runbook)
        opened = Run(past.folder, runbook, past.run_id, profile, given=given, note=note, past=past, phrase=phrase)
        opened.go_on()
        return opened
    run_id = os.environ.pop("DRILLBOOK_RUN_ID", "") or places.new_run_id()
    folder = places.make_run_dir(runbook, run_id)
    opened = Run(folder, runbook, run_id, profile, given=given, note=note)
    opened.start()
    return opened


class Run:
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
        past: Past | None = None,
        phrase: str = "",
    ) -> None:
        self.folder, self.runbook, self.run_id, self.site = folder, runbook, run_id, site
        self.mode, self._given = given["mode"], given
        self.masker = Masker(keep=public_names(site))
        self.lock = RunLock(folder)
        self.told = Observations(folder, self.masker)
        self.told.waived = waivers(site, runbook)
        self.journal = self.told.journal
        self.context = Context(
            site=site,
            run_id=run_id,
            mode=self.mode,
            recorder=self.told,
            mask=self.masker.learn,
            parameters={name: value for name, value in given.items() if name not in ("site", "mode")},
            # Drawn for this run and kept in memory only: a digest of a small number can't be guessed from the record.
            digest_key=secrets.token_bytes(32),
            outputs=folder.parent.parent,
            hold=lambda: self._hold.require(),
        )
        self._note = note
        self._n = 0
        self._hold = Hold(self.context)
        self._closed = False
        self._refused = ""  # the step at which the run was refused: it is over, and its cells do nothing more
        self._replay = Replay(past, self.context, self.told) if past is not None else None
        self._midway = Midway(self.journal, past.events if past is not None else ())
        self._gates = Gatekeeper(
            self.context,
            self.told,
            past=past,
            phrase=phrase,
            make_plan=self._plan,
            go_on=self._enter_present,
            give_back=self._hold.give_back,
        )

    # -- opening -------------------------------------------------------------------------------

    def start(self) -> None:
        """Journal the opening, enter it in the ledger, take the Lease, and show the run's card."""
        mask_outputs(self.masker.mask)
        actor: dict[str, Any] = {"username": os.environ.get("USER", ""), "strength": "declared"}
        trouble: RunbookError | None = None
        try:
            actor = self.context.kube.whoami().model_dump(mode="json")
        except RunbookError as error:
            trouble = error
        data = opening(
            self.site, run_id=self.run_id, runbook=self.runbook, given=self._given, note=self._note, actor=actor
        )
        if self.mode == "apply":
            data["previous"] = self.ledger.open(self.run_id, self.runbook)["previous"]
        self.journal.append("opened", **data)
        if trouble is not None:
            self._fail_open(trouble)
        try:
            if kind_of(self.runbook).alone:
                self._hold.take()
        except RunbookError as error:
            self._fail_open(error)
        self._show(cards.run_card(self.journal.events()[0]))

    def go_on(self) -> None:
        """Take the Lease again and journal who resumes; what earlier attempts did comes from the journal."""
        mask_outputs(self.masker.mask)
        try:
            self._hold.take_over(self.journal.events())
            actor = who(self.context.kube)
        except RunbookError:
            self.release()
            raise
        self.journal.append("resumed", attempt=gates.attempt(self.journal.events()) + 1, actor=actor, note=self._note, package_sha256=package_sha256())
        self._show(cards.run_card(self.journal.events()[0]))

    def _fail_open(self, error: RunbookError) -> NoReturn:
        status = "refused" if error.verdict is None else "failed"
        self.journal.append("step_finished", n=0, status=status, seconds=0.0, result=None, error=error_json(error))
        self.release()
        raise error

    @property
    def ledger(self) -> Ledger:
        return Ledger.of(self.folder.parent.parent, self.site.name)

    # -- a destructive section -------------------------------------------------------------------

    def plan(self, title: str, *steps: Step[Any]) -> Section:
        """Make the plan of every step of a destructive section, and show it: what, why, what is lost, who asked.

        Changes nothing. The steps are then done one a cell, after :meth:`confirm`, as these very objects.
        """
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
        self._require_open()
        self._gates.confirm(section)

    def _require_open(self) -> None:
        if self._closed or self._refused:
            why = f"was refused at {self._refused}" if self._refused else "is closed"
            raise ParameterError([f"run {self.run_id} {why}"], where="run", todo="Open a new run: run the cell that opens it again.")

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

        A step that fails is journalled and shown; its result is then a :class:`Later`, and what needs it is not run,
        so that later checks still run and what was made is still removed. A refusal (nothing was touched) is raised.
        In a resumed run a step that is complete is not done again: its result comes from the journal. Raises
        NotConfirmed for a step of a destructive section that was not confirmed.
        """
        self._require_open()
        self._require_same(step)
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
        self.told.begin(n, step.title, Display(self.masker.mask), undoing=step.settles)
        self.told.write(
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
            return cast(T, Later(f"known after step {self._n}"))
        if barred or (unknown is not None and not step.settles):
            return self._skip(step, barred or str(unknown))
        if trouble is not None:
            return self._failed(step, trouble, 0.0)
        return self._act(step, plan)

    def _restored(self, replay: Replay, step: Step[T], past: PastStep) -> T:
        result = cast(T, replay.restore(step, past))
        self._n = past.n
        self.told.begin(past.n, step.title, Display(self.masker.mask))
        self.told.remember(replay.past, past)
        self._draw(step, "done", result=result, reason=f"from the journal, as it was seen at {past.seen_at}")
        return result

    def _plan(self, step: Step[Any], unknown: Later | None) -> Plan:
        try:
            return step.plan(self.context)
        except (RunbookError, TypeError) as error:
            if unknown is None:
                raise
            return Plan(summary=f"{step.title}: {error}")

    def _skip(self, step: Step[T], why: str) -> T:
        if isinstance(step, Rung | Rungs):
            for check in step.not_run(why):
                self.told.check(check)
        self._finish("not run", 0.0, None, None)
        self._midway.failed(step, f"step {self._n} ({step.title}) was not run: {why}", skipped=True)
        self._draw(step, "not run", reason=why)
        return cast(T, Later(why))

    def _act(self, step: Step[T], plan: Plan | None) -> T:
        started = datetime.now(UTC)
        changed = Changed.NOTHING
        try:
            if step.effect is not Effect.READS:
                self._hold.require()
            step.check(self.context)
            changed = Changed.UNKNOWN if step.effect is not Effect.READS else Changed.NOTHING
            result = step.do(self.context)
            step.verify(self.context, result)
        except RunbookError as error:
            if error.changed is Changed.NOTHING:
                error.changed = changed
            return self._failed(step, error, _seconds_since(started))
        except BaseException as error:  # a bug of ours, or Ctrl-C: on disk before it goes up
            self._bug(step, error, _seconds_since(started))
            raise
        if isinstance(result, Checks):
            for check in result.checks:
                self.told.check(check)
        seconds = _seconds_since(started)
        self._finish("done", seconds, results.dump(step, result), None, lost=self._lost(step, result))
        self._draw(step, "done", result=result, plan=plan, seconds=seconds)
        return result

    def _failed(self, step: Step[T], error: RunbookError, seconds: float) -> T:
        refused = error.verdict is None
        self._gates.note_failure(step, f"step {self._n} ({step.title}) failed")
        self._finish("refused" if refused else "failed", seconds, None, error_json(error))
        self._midway.failed(step, f"step {self._n} ({step.title}) failed: {error.what}", error=error)
        if refused:
            self._refused = f"step {self._n} ({step.title}): {error.what}"
            self.release()  # the run is over: nothing was touched, and a new one may begin
            raise error
        self._log_traceback(error)
        self._draw(step, "failed", error=error, seconds=seconds)
        return cast(T, Later(f"not known: step {self._n} ({step.title}) failed"))

    def _bug(self, step: Step[Any], error: BaseException, seconds: float) -> None:
        self._log_traceback(error)
        stopped = isinstance(error, KeyboardInterrupt)
        todo = "The run was interrupted." if stopped else "A bug of Drillbook: report it with logs/errors.log."
        what, code = f"{type(error).__name__}: {error}"[:500], 6 if stopped else 70
        shown = {"type": type(error).__name__, "what": what, "changed": "unknown", "todo": todo}
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
        self.told.write(
            "step_finished", n=self._n, status=status, seconds=round(seconds, 3), result=result, error=error, **more
        )

    # -- closing ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Judge and seal the run's record; raises NotVerified unless the verdict is VERIFIED (a plan has none)."""
        if self._closed:
            return
        self._closed = True
        if self._midway.halted:
            self.release()
            self._midway.require_not(self.run_id)
        found = judge(self.journal.events())
        self.journal.append("closed", verdict=found.verdict, reasons=found.reasons, by="notebook")
        self._gates.bind()
        self.release()
        self._show(cards.verdict_card(record(self.journal.events())))
        if self.mode == "apply" and found.verdict is not None and found.verdict is not Verdict.VERIFIED:
            raise NotVerified(
                found.headline,
                run_verdict=found.verdict,
                todo=f"Read report.html of run {self.run_id}; `drillbook verify {self.run_id}` checks the evidence.",
            )

    def release(self) -> None:
        """Give back the Lease, close the clients; safe to call twice."""
        self._hold.give_back()
        self.context.close()
        self.lock.release()

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
            bundle = draw_step(self._n, step, status, result, plan, error, reason, seconds, self.told.step_checks)
            if self.told.display is not None:
                self.told.display.draw(bundle)
        except Exception as failure:  # a card is only a view: the step is journalled, and its result must be returned
            self._log_traceback(failure)

    def _show(self, bundle: dict[str, str]) -> None:
        Display(self.masker.mask).draw(bundle)


def _seconds_since(started: datetime) -> float:
    return (datetime.now(UTC) - started).total_seconds()
