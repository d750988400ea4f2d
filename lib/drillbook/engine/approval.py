"""An approval: a phrase typed by a person, who is known by the API server's own answer, noted in the journal."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from drillbook import kube as k8s
from drillbook.errors import ParameterError, RunbookError
from drillbook.evidence import Journal, gates


def who(kube: k8s.Kube | None) -> dict[str, Any]:
    """The actor as the API server knows it (strength ``api``), else the machine's account (``os``)."""
    host = {"host": socket.gethostname()}
    if kube is not None:
        try:
            return kube.whoami().model_dump(mode="json") | host
        except RunbookError:
            pass
    try:
        return {"username": pwd.getpwuid(os.getuid()).pw_name, "strength": "os"} | host
    except KeyError:
        return {"username": os.environ.get("USER", ""), "strength": "declared"} | host


def cluster_uid(kube: k8s.Kube) -> str:
    """The UID of kube-system, which identifies the Kubernetes cluster; "" if it may not be read."""
    try:
        found = kube.get(k8s.NAMESPACE, "", "kube-system")
    except RunbookError:
        return ""
    return str(found["metadata"]["uid"]) if found else ""


def approve(journal: Journal, phrase: str, kube: k8s.Kube | None, *, how: str, name: str = "") -> dict[str, Any]:
    """Note the approval of the gate at which the run stands, and answer it as it was written.

    ``how`` is ``widget``, ``approve`` or ``parameter``; ``name`` is the person's own, as people know it, and is noted as
    it was given: what counts is the identity. Raises ParameterError, with nothing noted, for another phrase,
    after the deadline, for a person who has approved already, and for an identity that does not count here.
    """
    events = journal.events()
    gate = gates.waiting(events)
    faults: list[str] = []
    actor: dict[str, Any] = {}
    if gate is None:
        faults.append("the run does not wait for a confirmation")
    else:
        if " ".join(phrase.split()) != gate["phrase"]:
            faults.append(f"{phrase!r} is not the phrase of the plan that waits ({gate['section']})")
        if datetime.now(UTC) > datetime.fromisoformat(gate["deadline"]):
            faults.append(f"the deadline has passed ({gate['deadline']})")
        if not faults:
            actor = who(kube)
            faults += _faults_of(gate, actor, gates.approvals(events, gate["digest"]), kube)
    if len(name) > 200 or not name.isprintable():
        faults.append("the name is not one line of at most 200 characters")
    if faults or gate is None:
        run_id = events[0]["run_id"] if events else ""
        raise ParameterError(
            faults, where=f"approval of run {run_id}", todo="Nothing was noted. `drillbook list` shows what waits."
        )
    return journal.append(
        "approved",
        section=gate["section"],
        digest=gate["digest"],
        how=how,
        actor=actor | ({"name": name} if name else {}),
    )


def _faults_of(
    gate: gates.Event, actor: dict[str, Any], given: Sequence[gates.Event], kube: k8s.Kube | None
) -> list[str]:
    faults = [refusal] if (refusal := gates.refusal(given, actor, int(gate["people"]))) else []
    asked = gate.get("kube_system_uid")
    if asked and kube is not None and actor["strength"] == "api" and (found := cluster_uid(kube)) != asked:
        faults.append(
            f"your kubeconfig leads to another cluster: kube-system has UID {found or '(it may not be read)'}, "
            f"the run's has {asked}"
        )
    return faults
