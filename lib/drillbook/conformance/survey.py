"""Asks the probes one after another, removes what they made, and keeps the answers as a table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from drillbook import kube as k8s
from drillbook.conformance.environment import ProbeEnvironment
from drillbook.conformance.probe import PROBES, CantAsk, Differs, Probe, ProbeResult, State
from drillbook.errors import KubernetesError, RunbookError, StepTimeoutError


@dataclass
class ConformanceSurvey:
    """The answers of one cluster, its versions, and what could not be removed afterwards."""

    asked_at: datetime
    versions: dict[str, str] = field(default_factory=dict)
    answers: list[ProbeResult] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def count(self, state: State) -> int:
        """How many probes found this."""
        return sum(answer.state is state for answer in self.answers)

    def as_json(self) -> dict[str, Any]:
        """The survey as it is kept in a file."""
        rows = [
            {"name": one.probe.name, "state": str(one.state), "seen": one.seen, "seconds": round(one.seconds, 2)}
            for one in self.answers
        ]
        return {
            "asked_at": self.asked_at.isoformat(timespec="seconds"),
            "versions": self.versions,
            "answers": rows,
            "left": self.left,
        }


def survey(
    ground: ProbeEnvironment, names: Iterable[str] = (), *, tell: Callable[[ProbeResult], None] = lambda answer: None
) -> ConformanceSurvey:
    """Ask the named probes (all of them, if none is named) and remove what they made. LookupError: no such probe.

    Every answer is reported as it comes. What a probe itself could not do (no rights, no answer, a limit reached) is
    its answer, never an end of the survey.
    """
    wanted = [PROBES[name] for name in names] or list(PROBES.values())
    found = ConformanceSurvey(datetime.now(UTC))
    try:
        for one in wanted:
            answer = _ask(one, ground)
            found.answers.append(answer)
            tell(answer)
        found.versions = versions(ground)
    finally:
        found.left = ground.remove_all()
    return found


def _ask(one: Probe, ground: ProbeEnvironment) -> ProbeResult:
    began = time.monotonic()

    def answer(state: State, seen: str) -> ProbeResult:
        return ProbeResult(one, state, " ".join(seen.split())[:400], time.monotonic() - began)

    if one.needs == "archive" and not ground.options.object_store:
        return answer(State.CANT_ASK, "no ObjectStore was named that the probes may write to")
    try:
        return answer(State.AGREES, one.ask(ground))
    except CantAsk as why:
        return answer(State.CANT_ASK, str(why))
    except (Differs, StepTimeoutError) as how:
        return answer(State.DIFFERS, str(how))
    except KubernetesError as error:
        # Rights that are missing, or no answer at all, say nothing about the fact.
        state = State.CANT_ASK if error.status in (0, 401, 403, 503) else State.DIFFERS
        return answer(state, error.what)
    except RunbookError as error:
        return answer(State.CANT_ASK, error.what)


def versions(ground: ProbeEnvironment) -> dict[str, str]:
    """What tells its version: Kubernetes, CloudNativePG and its plugin as objects name them, PostgreSQL by SQL."""
    found = {"Kubernetes": ground.kube.server_version()}
    cluster: dict[str, Any] = ground.__dict__.get("cluster") or {}
    if not cluster:
        return found
    now = ground.kube.get(k8s.CLUSTER, ground.namespace, cluster["metadata"]["name"]) or {}
    status = now.get("status") or {}
    pod = ground.kube.get(k8s.POD, ground.namespace, str(status.get("currentPrimary", ""))) or {}
    operator = ((pod.get("metadata") or {}).get("annotations") or {}).get("cnpg.io/operatorVersion", "")
    found["CloudNativePG"] = operator or "not reported"
    for plugin in status.get("pluginStatus") or ():
        found[str(plugin.get("name"))] = str(plugin.get("version", "not reported"))
    try:
        found["PostgreSQL"] = ground.sql("SHOW server_version").split()[0]
    except (RunbookError, Differs, IndexError):
        found["PostgreSQL"] = "not reported"
    return found
