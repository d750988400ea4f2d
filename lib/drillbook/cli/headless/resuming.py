"""Runs that stopped: approved, resumed or abandoned."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drillbook import kube as k8s
from drillbook.cli.headless.runner import partial_notebook, run_attempt
from drillbook.cli.headless.settling import Progress, RunOutcome, events_of, notebook_name, opening_of, settle
from drillbook.engine import approval, require_ended, run_folders, validate
from drillbook.engine.previous_attempts import PreviousAttempts
from drillbook.engine.retargeting import retarget
from drillbook.errors import ParameterError, RunbookError, RunInProgress
from drillbook.evidence import Journal, Masker, gates, notebook_digest
from drillbook.evidence.judge import of_type, unsettled
from drillbook.profile import Site, load_site


@dataclass(frozen=True)
class Abandoned:
    """What became of an abandoned run: what was undone, and what could not be."""

    outcome: RunOutcome
    undone: tuple[str, ...]
    left: tuple[str, ...]


def resume(
    folder: Path,
    *,
    confirm: str = "",
    notebook: Path | None = None,
    target: Mapping[str, Any] | None = None,
    progress: Progress = lambda _: None,
) -> RunOutcome:
    """Run the notebook of a run that stopped again, under the same run id and with the same parameters.

    ``confirm`` is the phrase of the gate at which it waits; ``notebook`` names the runbook where it doesn't lie in
    ``runbooks/``; ``target`` is another target, as a parameter and its value, for a recovery that was not put into
    service yet. Raises NotResumable or ParameterError with nothing touched.
    """
    past = PreviousAttempts(folder)
    past.require_resumable()
    if target:
        if confirm:
            both = "a phrase confirms the plan for one target: give another target without it"
            raise ParameterError([both], where=f"resume of run {past.run_id}", todo="Nothing was changed.")
        retarget(past, target, load_site(str(past.parameters["site"])))
        past = PreviousAttempts(folder)
    gate, phrase = gates.waiting(past.events), " ".join(confirm.split())
    if phrase and (gate is None or phrase != gate["phrase"]):
        waits = f"{phrase!r} is not the phrase of the plan that waits" if gate else "the run does not wait for a phrase"
        raise ParameterError(
            [waits], where=f"resume of run {past.run_id}", todo="Nothing was changed. `drillbook list`."
        )
    runbook = str(past.opened["runbook"])
    path = notebook or run_folders.project_root() / "runbooks" / f"{runbook}.ipynb"
    if not path.is_file():
        raise ParameterError(
            [f"there is no notebook {path}"], where=f"resume of run {past.run_id}", todo="Name it with --notebook."
        )
    parameters = dict(past.parameters)
    site, mode = str(parameters.pop("site")), str(parameters.pop("mode"))
    profile = validate(site=site, mode=mode, parameters=parameters)
    given = parameters | {"mode": mode} | ({"site": site} if site else {})
    past.require_same(profile=profile, notebook_sha256=notebook_digest(path), given=given, runbook=runbook)
    _keep_partial(folder, past.events)
    variables = {"DRILLBOOK_RESUME": past.run_id} | ({"DRILLBOOK_CONFIRM": phrase} if phrase else {})
    return run_attempt(path, given, folder, profile, variables, progress)


def _keep_partial(folder: Path, events: list[dict[str, Any]]) -> None:
    """What a killed attempt had executed so far stays its notebook, and the attempt is noted as killed."""
    partial, name = partial_notebook(folder.name), notebook_name(events)
    with suppress(OSError):  # a full disk holds up no undoing
        if partial.exists() and not (folder / name).exists():
            shutil.move(partial, folder / name)
        partial.unlink(missing_ok=True)
    number = gates.attempt(events)
    if not any(event["n"] == number for event in of_type(events, "attempt")):
        ended = {"notebook": name, "how": "killed", "error": "no process of the attempt was left"}
        Journal(folder / "journal.jsonl").note("attempt", n=number, **ended)


def waits_at(folder: Path) -> Mapping[str, Any]:
    """The gate at which the run stands, as it was journalled; ParameterError if it doesn't wait."""
    gate = gates.waiting(events_of(folder))
    if gate is None:
        fault = "the run does not wait for a confirmation"
        raise ParameterError([fault], where=f"approval of run {folder.name}", todo="`drillbook list` shows what waits.")
    return gate


def approve(folder: Path, phrase: str, *, kubeconfig: str = "", context: str = "", name: str = "") -> dict[str, Any]:
    """Approve the plan at which a run waits, with the approver's own credentials; the approval as it was noted.

    Empty ``kubeconfig`` and ``context`` mean the profile's; ``name`` is the person's own. Raises ParameterError, with nothing noted, for another
    phrase, a deadline that has passed, somebody who has approved already, and an identity that does not count here.
    """
    site = load_site(opening_of(folder)["parameters"]["site"])
    own = bool(kubeconfig or context)
    try:
        kube: k8s.Kube | None = k8s.Kube.open(
            kubeconfig or ("" if own else site.kubernetes.kubeconfig),
            context or ("" if own else site.kubernetes.context),
        )
    except RunbookError:
        if own:
            raise
        kube = None
    try:
        return approval.approve(Journal.open(folder / "journal.jsonl"), phrase, kube, how="approve", name=name)
    finally:
        if kube is not None:
            kube.close()


def abandon(
    folder: Path, *, notebook: Path | None = None, as_it_stands: bool = False, progress: Progress = lambda _: None
) -> Abandoned:
    """End a run that waits or stopped: undo what can be undone, the newest first, say what can't be, and seal it.

    ``notebook`` is the saved notebook of a run that somebody stepped through; if none is given, the one that it was
    opened in is kept, provided that it shows this run. Behind the run's point of no return nothing is undone: clients
    may have written to the new place. There it is ended only ``as_it_stands``. Raises NotResumable, with nothing
    touched.
    """
    if notebook is not None and not notebook.is_file():
        raise ParameterError([f"there is no notebook {notebook}"], where="abandon", todo="Nothing was changed.")
    past = PreviousAttempts(folder)
    if of_type(past.events, "closed"):
        past.refuse("it has ended", f"`drillbook verify {past.run_id}` checks its evidence.", verb="abandoned")
    past.require_not_alive("abandoned")
    if (passed := gates.point_of_no_return(past.events)) and not as_it_stands:
        past.refuse(
            f"{passed!r} has begun: clients may have written to the new place since, which no clean-up may undo",
            f"`drillbook resume {past.run_id}` goes on; `drillbook undo {past.run_id}` goes back, after it has shown what was "
            f"written; `drillbook abandon {past.run_id} --as-it-stands` only ends the run, and leaves everything as it is.",
            verb="abandoned",
        )
    site = load_site(past.opened["parameters"]["site"])
    actor = _abandoner(site, past)
    if saved := notebook or _stepped_through(past.events):
        shutil.copyfile(saved, folder / notebook_name(past.events))
    _keep_partial(folder, past.events)
    journal = Journal(folder / "journal.jsonl", Masker())
    promised = [event["id"] for event in unsettled(past.events)]
    progress(journal.note("abandoned", actor=actor))
    outcome = settle(folder, how="abandoned", message="", by="abandon", progress=progress)
    events = events_of(folder)
    open_ones = {event["id"]: event["what"] for event in unsettled(events)}
    left = [f"{id} ({what})" for id, what in open_ones.items()]
    left += [
        f"step {step.n}, {step.title}: done, and not undone" + _lost(step.plan)
        for step in past.steps.values()
        if step.section and step.complete and not past.ended_by_itself(step) and not step.promised & set(promised)
        # What there was nothing to be done of, nobody has to undo.
        if not (step.plan or {}).get("harmless")
    ]
    return Abandoned(outcome, tuple(id for id in promised if id not in open_ones), tuple(left))


def _abandoner(site: Site, past: PreviousAttempts) -> dict[str, Any]:
    """Who abandons the run; RunInProgress while another machine still acts for it."""
    try:
        with k8s.Kube.open(site.kubernetes.kubeconfig, site.kubernetes.context) as kube:
            require_ended(kube, site, past.events)
            return approval.who(kube)
    except RunInProgress:
        raise
    except RunbookError:
        return approval.who(None)


def _stepped_through(events: Sequence[Mapping[str, Any]]) -> Path | None:
    """The saved notebook in which the last attempt was made, if it is there and its outputs name the run."""
    made_in = [event for event in events if event["type"] in ("opened", "resumed")][-1].get("notebook")
    path = Path(str(made_in or ""))
    if not made_in or not path.is_file():
        return None
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError):
        return None
    return path if any(str(events[0]["run_id"]) in json.dumps(cell.get("outputs", [])) for cell in cells) else None


def _lost(plan: dict[str, Any] | None) -> str:
    lost = (plan or {}).get("lost") or []
    return f" (lost: {'; '.join(lost)})" if lost else ""
