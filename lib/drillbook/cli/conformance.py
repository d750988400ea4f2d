"""``drillbook doctor --conformance`` on a terminal: the probes' answers as they come, and what they add up to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from drillbook import kube as k8s
from drillbook.conformance import PROBES, Options, ProbeEnvironment, ProbeResult, State, survey
from drillbook.errors import ParameterError
from drillbook.model import show_seconds

_STYLES = {State.AGREES: "green", State.DIFFERS: "bold red", State.CANT_ASK: "yellow"}


def conformance_report(console: Console, options: Options, names: Sequence[str], write: Path | None) -> int:
    """Ask the cluster of the current kubeconfig context; 0 all agree, 1 something differs, 2 something can't be asked.

    ParameterError: no namespace, one that isn't there, or a probe that doesn't exist; nothing was touched.
    """
    faults = [f"there is no probe {name}" for name in names if name not in PROBES]
    if not options.namespace:
        faults.append("--namespace is missing: the probes make their things in a namespace that you name")
    if write is not None and not write.absolute().parent.is_dir():
        faults.append(f"there is no folder for {write}")
    if faults:
        raise ParameterError(faults, where="drillbook doctor --conformance")
    with k8s.Kube.open() as kube:
        if kube.get(k8s.NAMESPACE, "", options.namespace) is None:
            raise ParameterError(
                [f"there is no namespace {options.namespace}"],
                where="drillbook doctor --conformance",
                todo="Make one for the probes: they remove what they make, but not the namespace.",
            )
        ground = ProbeEnvironment(kube, options)
        found = survey(ground, names, tell=lambda answer: _tell(console, answer))
    for one in found.left:
        console.print(Text(f"left behind: {one}", style="red"))
    if write is not None:
        write.write_text(json.dumps(found.as_json(), indent=1) + "\n", encoding="utf-8")
    console.print()
    console.print(Text(", ".join(f"{what} {version}" for what, version in found.versions.items()), style="dim"))
    counts = [(f"{found.count(state)} {state}", _STYLES[state] if found.count(state) else "dim") for state in State]
    console.print(Text.assemble(counts[0], ", ", counts[1], ", ", counts[2]))
    if found.left or found.count(State.DIFFERS):
        return 1
    return 2 if found.count(State.CANT_ASK) else 0


def _tell(console: Console, answer: ProbeResult) -> None:
    took = (show_seconds(answer.seconds), "dim")
    name = (f"{answer.probe.name:<44}", "bold")
    console.print(Text.assemble((f"{answer.state:<15}", _STYLES[answer.state]), name, took))
    if answer.state is not State.AGREES:
        console.print(Text(f"    {answer.probe.fact}"))
        console.print(Text(f"    → {answer.seen}", style=_STYLES[answer.state]))
