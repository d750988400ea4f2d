"""Opening a run, going on with one that stopped, and what becomes of an earlier run of the same kernel."""

from __future__ import annotations

import os
from typing import Any

from drillbook.engine import run_folders, waiting_runs
from drillbook.engine.engine import Run
from drillbook.engine.opening import notebook_sha256, validate
from drillbook.engine.previous_attempts import PreviousAttempts
from drillbook.errors import ParameterError, RunbookError, RunInProgress
from drillbook.evidence import gates

_HERE: list[Run] = []  # the runs that this process has opened


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
    comes from its journal, and ``confirm`` is the phrase of the gate at which it waits.

    An earlier run of this runbook in the same kernel that has changed nothing is closed as superseded. If the opening
    fails, that earlier run does no step any more until it is resumed: a notebook's ``run`` still names it.

    Raises ParameterError with every fault, EvidenceUnwritable before anything is touched, RunInProgress if another run
    holds the cluster or waits with something on the cluster, NotResumable if that run can't go on as it was begun.
    """
    mine = _earlier(runbook)
    try:
        earlier = resume or run or os.environ.pop("DRILLBOOK_RESUME", "")
        phrase = " ".join((confirm or os.environ.pop("DRILLBOOK_CONFIRM", "")).split())
        if phrase and not earlier:
            fault = "confirm: a phrase confirms the plan of one run; give that run's id too"
            raise ParameterError([fault], where="parameters and profile")
        given = {"site": site, "mode": mode} | parameters
        if earlier:
            return _gone_on_with(earlier, runbook, given, note, phrase)
        return _opened(runbook, given, note, mine)
    except RunbookError as error:
        for one in mine:
            one.let_go(f"does nothing more: opening the runbook again has failed ({type(error).__name__})")
        raise


def resume_run(run: str, *, confirm: str = "") -> Run:
    """Go on with a run that waits or stopped, in this notebook: run the cells from the first step on after it.

    Each step that is complete returns its recorded result, and the open gate is shown again. ``run`` is a run's id or
    the beginning of one; its runbook, site, mode and parameters come from its journal. Raises what :func:`open_run`
    does.
    """
    folder = run_folders.find_run(run)
    here = next((one for one in _HERE if one.folder.resolve() == folder.resolve() and not one.over), None)
    if here is not None:
        here.take_up()
        return here
    past = PreviousAttempts(folder)
    return _gone_on_with(past.run_id, str(past.opened["runbook"]), dict(past.parameters), "", " ".join(confirm.split()))


def _gone_on_with(run_id: str, runbook: str, given: dict[str, Any], note: str, phrase: str) -> Run:
    parameters = {name: value for name, value in given.items() if name not in ("site", "mode")}
    profile = validate(site=str(given.get("site", "")), mode=str(given["mode"]), parameters=parameters)
    past = PreviousAttempts(run_folders.find_run(run_id))
    past.require_resumable()
    digest = notebook_sha256(str(past.opened["runbook"]))
    past.require_same(profile=profile, notebook_sha256=digest, given=given, runbook=runbook)
    opened = Run(past.folder, runbook, past.run_id, profile, given=given, note=note, past=past, phrase=phrase)
    opened.go_on()
    _HERE.append(opened)
    return opened


def _opened(runbook: str, given: dict[str, Any], note: str, mine: list[Run]) -> Run:
    parameters = {name: value for name, value in given.items() if name not in ("site", "mode")}
    profile = validate(site=given["site"], mode=given["mode"], parameters=parameters)
    for one in mine:
        if one.unmoved and gates.parameters(one.journal.events()) == given:
            one.take_up()
            return one
        events = one.journal.events()
        if waiting_runs.has_changed(events):
            raise RunInProgress(
                f"this notebook's own {waiting_runs.of(one.folder, events)}", todo=waiting_runs.ways(one.run_id)
            )
    if given["mode"] == "apply":
        # What stopped midway is gone back from by an undo of that very run.
        waiting_runs.require_none(profile, runbook, {one.run_id for one in mine} | {str(given.get("of_run", ""))})
    run_id = os.environ.pop("DRILLBOOK_RUN_ID", "") or run_folders.new_run_id()
    folder = run_folders.make_run_dir(runbook, run_id)
    for one in mine:
        one.supersede(run_id)
        _HERE.remove(one)
    opened = Run(folder, runbook, run_id, profile, given=given, note=note)
    opened.start()
    _HERE.append(opened)
    return opened


def _earlier(runbook: str) -> list[Run]:
    """What this process has opened of the runbook, in this outputs folder, and what is not over."""
    _HERE[:] = [one for one in _HERE if not one.over]
    outputs = run_folders.outputs_dir()
    return [one for one in _HERE if one.runbook == runbook and one.folder.parent.parent.resolve() == outputs.resolve()]


__all__ = ["open_run", "resume_run"]
