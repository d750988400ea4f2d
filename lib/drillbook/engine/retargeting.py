"""Another target for a recovery that was not put into service yet: attempt 2, 3 … of the same run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from drillbook import kube as k8s
from drillbook.engine.approval import who
from drillbook.engine.parameters import faults_of
from drillbook.engine.previous_attempts import PreviousAttempts
from drillbook.errors import ParameterError, RunbookError
from drillbook.evidence import Journal, gates
from drillbook.evidence.judge import of_type
from drillbook.model import TARGET_PARAMETERS
from drillbook.profile import Site

RESOLVES = "ResolveTarget"  # the step that reads the target: it and what comes after it is done again


def retarget(past: PreviousAttempts, wanted: Mapping[str, Any], site: Site) -> None:
    """Note in the run's journal that it goes on to another target; the run is then resumed as always.

    ParameterError: not one target that can be read, or one that the runbook does not take. NotResumable: the runbook
    reads no target, or what was recovered is being put into service. Nothing is noted then.
    """
    step = next((step for step in past.steps.values() if step.step == RESOLVES), None)
    faults = [f"{name}: only another target can be given" for name in wanted if name not in TARGET_PARAMETERS]
    faults += [
        f"{name}: {past.opened['runbook']} takes no such target" for name in wanted if name not in past.parameters
    ]
    faults += faults_of(wanted)
    if faults:
        raise ParameterError(faults, where=f"resume of run {past.run_id}", todo="Nothing was changed.")
    if step is None:
        past.refuse("it has read no target yet", "Start a new run with that target.")
    if put_into_service(past):
        past.refuse(
            "what was recovered is being put into service: another target would be another recovery",
            "Resume it as it is and go back from there, or start a new run.",
        )
    others = {name: "" for name in TARGET_PARAMETERS if name in past.parameters}
    Journal.open(past.folder / "journal.jsonl").append(
        "retargeted",
        n=step.n,
        attempt=len(gates.targets(past.events)) + 1,
        parameters=others | dict(wanted),
        actor=_actor(site),
    )


def chosen(
    runbook: str, events: Sequence[gates.Event], wanted: Mapping[str, Any], known: Mapping[str, Any], step: int
) -> dict[str, Any]:
    """What a target that is chosen inside a run adds to its journal; ``known`` are the run's parameters, ``step`` its next one.

    ParameterError: not one target that can be read, or one that the runbook does not take, or the run has changed
    something already: then a copy for another target is made by ``drillbook resume RUN -p``.
    """
    faults = [f"{name}: only a target can be chosen here" for name in wanted if name not in TARGET_PARAMETERS]
    faults += [f"{name}: {runbook} takes no such target" for name in wanted if name not in known]
    faults += faults_of(wanted)
    if of_type(events, "confirmed"):
        faults.append(
            "the target was confirmed at a gate: another one is given to `drillbook resume RUN -p target_time …`"
        )
    if faults:
        raise ParameterError(
            faults, where="choose_target", todo="Nothing was changed. Correct this cell, and run it again."
        )
    resolved = [
        int(event["n"]) for event in of_type(gates.current(events), "step_started") if event["step"] == RESOLVES
    ]
    others = {name: "" for name in TARGET_PARAMETERS if name in known}
    return {"n": min([step, *resolved]), "attempt": len(gates.targets(events)) + 1, "parameters": others | dict(wanted)}


def put_into_service(past: PreviousAttempts) -> bool:
    """Whether a step of a destructive section was begun after the copy for the present target was made."""
    # What contains the damage is done again for each target, before its copy: the copy of an earlier one says nothing.
    begun = max((index for index, event in enumerate(past.events) if event["type"] == "retargeted"), default=0)
    events = past.events[begun:]
    copies = [index for index, event in enumerate(events) if event["type"] == "fact" and event["name"] == "copy"]
    since = events[copies[-1] :] if copies else []
    return any(event.get("section") for event in of_type(since, "step_started"))


def _actor(site: Site) -> dict[str, Any]:
    try:
        with k8s.Kube.open(site.kubernetes.kubeconfig, site.kubernetes.context) as kube:
            return who(kube)
    except RunbookError:
        return who(None)


__all__ = ["chosen", "put_into_service", "retarget"]
