"""One step at a time: gate, clock, journal, obligations. Knows no widget; what it shows are mime bundles."""

from __future__ import annotations

import hashlib
import os
import secrets
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

from drillbook import cards
from drillbook import kube as k8s
from drillbook.errors import Changed, NotVerified, ParameterError, RunbookError
from drillbook.evidence import Journal, Ledger, Masker, judge, record
from drillbook.model import Check, Effect, Frozen, Verdict, show_instant
from drillbook.run import places
from drillbook.run.alive import RunLock
from drillbook.run.opening import lease_name, opening, public_names, validate
from drillbook.run.show import Display, mask_outputs
from drillbook.site import Site
from drillbook.step import Checks, Context, Later, Obligation, Plan, Rung, Rungs, Step

T = TypeVar("T")
LEASE_SECONDS = 60


def open_run(
    runbook: str, *, site: str = "", mode: str = "plan", note: str = "", **parameters: str | int | bool
) -> Run:
    """Open a run: check the parameters, make its folder, journal who and what, take the Lease (``apply`` only).

    ``site`` is a profile's path or name (empty: ``$DRILLBOOK_SITE``, else ``lab``); ``parameters`` are the runbook's
    own. Raises ParameterError with every fault, EvidenceUnwritable before anything is touched, RunInProgress if
    another run holds the cluster.
    """
    profile = validate(site=site, mode=mode, parameters=parameters)
    run_id = os.environ.pop("DRILLBOOK_RUN_ID", "") or places.new_run_id()
    folder = places.make_run_dir(runbook, run_id)
    given = {"site": site, "mode": mode} | parameters
    run = Run(folder, runbook, run_id, profile, given=given, note=note)
    run.start()
    return run


class Run:
    """An open run. A notebook calls :meth:`do` once a cell and :meth:`close` in the last."""

    def __init__(
        self, folder: Path, runbook: str, run_id: str, site: Site, *, given: dict[str, Any], note: str
    ) -> None:
        self.folder, self.runbook, self.run_id, self.site = folder, runbook, run_id, site
        self.mode, self._given = given["mode"], given
        self.masker = Masker(keep=public_names(site))
        self.lock = RunLock(folder)
        self.journal = Journal.open(folder / "journal.jsonl", masker=self.masker)
        self.context = Context(
            site=site,
            run_id=run_id,
            mode=self.mode,
            recorder=self,
            mask=self.masker.learn,
            parameters={name: value for name, value in given.items() if name not in ("site", "mode")},
            # Drawn for this run and kept in memory only: a digest of a small number can't be guessed from the record.
            digest_key=secrets.token_bytes(32),
            outputs=folder.parent.parent,
        )
        self._note = note
        self._n = 0
        self._checks: list[Check] = []
        self._facts: dict[str, Any] = {}
        self._step_checks: list[Check] = []
        self._display: Display | None = None
        self._title = ""
        self._lease: k8s.Lease | None = None
        self._closed = False

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
        if self.mode == "apply":
            self._take_lease()
        self._show(cards.run_card(self.journal.events()[0]))

    def _take_lease(self) -> None:
        name = lease_name(self.site)
        try:
            self._lease = self.context.kube.lease(
                self.site.drillbook_namespace, name, self.run_id, ttl_seconds=LEASE_SECONDS
            )
        except RunbookError as error:
            self._fail_open(error)

    def _fail_open(self, error: RunbookError) -> NoReturn:
        self.journal.append(
            "step_finished",
            n=0,
            status="refused" if error.verdict is None else "failed",
            seconds=0.0,
            result=None,
            error=_error(error),
        )
        self.release()
        raise error

    @property
    def ledger(self) -> Ledger:
        return Ledger.of(self.folder.parent.parent, self.site.name)

    # -- a step --------------------------------------------------------------------------------

    def do(self, step: Step[T]) -> T:
        """Do one step, or plan it, and return its result.

        A step that fails is journalled and shown; its result is then a :class:`Later`, and what needs it is not run,
        so that later checks still run and what was made is still removed. A refusal (nothing was touched) is raised.
        """
        if self._closed:
            raise ParameterError([f"run {self.run_id} is closed"], where="run", todo="Open a new run.")
        self._n += 1
        self._title, self._display, self._step_checks = step.title, Display(self.masker.mask), []
        unknown = step.unknown
        planned = self.mode == "plan" and (step.effect is not Effect.READS or unknown is not None)
        plan = None
        if planned or step.effect is not Effect.READS:
            plan = self._plan(step, unknown)
        self.journal.append(
            "step_started",
            n=self._n,
            step=type(step).__name__,
            title=step.title,
            why=step.why,
            effect=str(step.effect),
            inputs={k: _short(v) for k, v in step.inputs.items()},
            plan=_plan_json(plan) if plan else None,
        )
        if planned:
            self._finish("planned", 0.0, None, None)
            self._draw(step, "planned", plan=plan)
            return cast(T, Later(f"known after step {self._n}"))
        if unknown is not None and not step.settles:
            return self._skip(step, str(unknown))
        return self._act(step, plan)

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
                self.check(check)
        self._finish("not run", 0.0, None, None)
        self._draw(step, "not run", reason=why)
        return cast(T, Later(why))

    def _act(self, step: Step[T], plan: Plan | None) -> T:
        started = datetime.now(UTC)
        changed = Changed.NOTHING
        try:
            if step.effect is not Effect.READS:
                self._hold_lease()
            step.check(self.context)
            changed = Changed.UNKNOWN if step.effect is not Effect.READS else Changed.NOTHING
            result = step.do(self.context)
            step.verify(self.context, result)
        except RunbookError as error:
            if error.changed is Changed.NOTHING:
                error.changed = changed
            return self._failed(step, error, _seconds_since(started))
        except BaseException as error:  # a bug of ours, or Ctrl-C: on disk before it goes up
            self._bug(error, _seconds_since(started))
            raise
        if isinstance(result, Checks):
            for check in result.checks:
                self.check(check)
        seconds = _seconds_since(started)
        self._finish("done", seconds, _json(result), None)
        self._draw(step, "done", result=result, plan=plan, seconds=seconds)
        return result

    def _failed(self, step: Step[T], error: RunbookError, seconds: float) -> T:
        refused = error.verdict is None
        self._finish("refused" if refused else "failed", seconds, None, _error(error))
        if refused:
            self.release()  # the run is over: nothing was touched, and a new one may begin
            raise error
        self._log_traceback(error)
        self._draw(step, "failed", error=error, seconds=seconds)
        return cast(T, Later(f"not known: step {self._n} ({step.title}) failed"))

    def _bug(self, error: BaseException, seconds: float) -> None:
        self._log_traceback(error)
        stopped = isinstance(error, KeyboardInterrupt)
        self._finish(
            "failed",
            seconds,
            None,
            {
                "type": type(error).__name__,
                "what": f"{type(error).__name__}: {error}"[:500],
                "changed": "unknown",
                "todo": "The run was interrupted."
                if stopped
                else "A bug of Drillbook: report it with logs/errors.log.",
                "verdict": str(Verdict.UNPROVEN),
                "exit_code": 6 if stopped else 70,
            },
        )

    def _log_traceback(self, error: BaseException) -> None:
        text = "".join(traceback.format_exception(error))
        path = self.folder / "logs" / "errors.log"
        with path.open("a", encoding="utf-8") as file:
            file.write(self.masker.mask(f"step {self._n}: {text}\n"))

    def _hold_lease(self) -> None:
        # Read again before every change: a laptop that slept must not act on a Lease that another run now holds.
        if self._lease is not None:
            self._lease.still_mine()

    def _finish(self, status: str, seconds: float, result: Any, error: dict[str, Any] | None) -> None:
        self.journal.append(
            "step_finished", n=self._n, status=status, seconds=round(seconds, 3), result=result, error=error
        )

    # -- what a step tells (step.Recorder) -------------------------------------------------------

    def check(self, check: Check) -> None:
        self._checks.append(check)
        self._step_checks.append(check)
        self.journal.append("check", n=self._n, **check.model_dump(mode="json"))

    def fact(self, name: str, value: Any) -> None:
        self._facts[name] = value
        self.journal.append("fact", name=name, value=value)

    def seen(self, name: str) -> Any:
        return self._facts.get(name)

    def phase(self, name: str, started_at: datetime, seconds: float, how: str) -> None:
        self.journal.append("phase", name=name, started_at=show_instant(started_at), seconds=round(seconds, 3), how=how)

    def obligation(self, obligation: Obligation) -> None:
        self.journal.append(
            "obligation",
            id=obligation.id,
            what=obligation.what,
            kind=obligation.kind,
            namespace=obligation.namespace,
            name=obligation.name,
            uid="",
        )

    def settled(self, obligation: Obligation, how: str, proof: str) -> None:
        self.journal.append("settled", id=obligation.id, how=how, proof=proof)

    def log(self, name: str, text: str) -> None:
        masked = self.masker.mask(text)
        path = self.folder / "logs" / name
        path.write_text(masked, encoding="utf-8")
        data = path.read_bytes()
        self.journal.append("log", file=f"logs/{name}", sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))

    def progress(self, text: str, *, fraction: float | None = None, rows: Sequence[tuple[str, str]] = ()) -> None:
        if self._display is not None:
            bundle = cards.progress_card(self._title, text, fraction=fraction, rows=list(rows))
            self._display.draw(bundle, at_most_every_seconds=0.4)

    def unmet(self) -> list[Check]:
        bad = (Verdict.FAILED, Verdict.UNPROVEN)
        return [check for check in self._checks if check.required and check.verdict in bad]

    # -- closing ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Judge and seal the run's record; raises NotVerified unless the verdict is VERIFIED (a plan has none)."""
        if self._closed:
            return
        self._closed = True
        found = judge(self.journal.events())
        self.journal.append("closed", verdict=found.verdict, reasons=found.reasons, by="notebook")
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
        if self._lease is not None:
            self._lease.release()
            self._lease = None
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
            self._draw_card(step, status, result, plan, error, reason, seconds)
        except Exception as failure:  # a card is only a view: the step is journalled, and its result must be returned
            self._log_traceback(failure)

    def _draw_card(
        self,
        step: Step[Any],
        status: str,
        result: Any,
        plan: Plan | None,
        error: RunbookError | None,
        reason: str,
        seconds: float,
    ) -> None:
        bundle = cards.step_card(
            n=self._n,
            title=step.title,
            why=step.why,
            effect=str(step.effect),
            status=status,
            seconds=seconds,
            rows=_rows(result),
            checks=[check.model_dump(mode="json") for check in self._step_checks],
            plan=_plan_json(plan) if plan and status == "planned" else None,
            error=_error(error) if error else None,
            reason=reason,
        )
        if self._display is not None:
            self._display.draw(bundle)

    def _show(self, bundle: dict[str, str]) -> None:
        Display(self.masker.mask).draw(bundle)


def _seconds_since(started: datetime) -> float:
    return (datetime.now(UTC) - started).total_seconds()


def _error(error: RunbookError) -> dict[str, Any]:
    return {
        "type": type(error).__name__,
        "what": error.what,
        "changed": str(error.changed),
        "todo": error.todo,
        "verdict": None if error.verdict is None else str(error.verdict),
        "exit_code": error.exit_code,
    }


def _json(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, Frozen) else None


def _short(value: Any) -> Any:
    """A step's input as the journal names it: results of earlier steps are in the journal already."""
    return str(value) if isinstance(value, Later) else type(value).__name__ if isinstance(value, Frozen) else value


def _plan_json(plan: Plan) -> dict[str, Any]:
    return {"summary": plan.summary, "objects": list(plan.objects), "sql": list(plan.sql), "notes": list(plan.notes)}


def _rows(result: Any) -> list[tuple[str, str]]:
    """What a card shows of a result, at most a dozen: what it tells of itself (``rows``), else its plain fields."""
    if not isinstance(result, Frozen) or isinstance(result, Checks):
        return []
    if hasattr(result, "rows"):
        return list(result.rows())[:12]
    rows: list[tuple[str, str]] = []
    for name in type(result).model_fields:
        value = getattr(result, name)
        if isinstance(value, Frozen | dict | tuple | list):
            continue
        if isinstance(value, datetime):
            value = show_instant(value)
        elif isinstance(value, float):
            value = f"{value:.1f}"
        if value not in ("", None):
            rows.append((name.replace("_", " "), str(value)))
    return rows[:12]
