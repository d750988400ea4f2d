"""The record of a run: what an auditor asks of a restore test, computed from the journal and from nothing else.

Its groups are always the same. A field that this run has nothing for is ``null``, and ``absent`` says why by the
field's path, so that nothing is left out silently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from drillbook.evidence import forecast_vs_actual, gates
from drillbook.evidence.canonical import SCHEMA, canonical, sha256
from drillbook.evidence.facts import noted as facts_noted
from drillbook.evidence.judge import Cause, Event, Judgement, judge, not_run, objectives, of_type, unsettled
from drillbook.model import Verdict

_GROUPED = {
    "archive_lag",
    "backup",
    "chain",
    "clocks",
    "cluster",
    "copy",
    "forecast",
    "quarantine",
    "reached",
    "target",
    "versions",
    "window",
}

ABSENT = {
    "who.requester": "nobody was named: the parameter requested_by was left empty",
    "who.approver": "this procedure has no destructive section, so nothing was approved",
    "when.planned_at": "the run was not started by a schedule",
    "backup": "no base backup was chosen",
    "target.requested": "no recovery target was proven",
    "target.reached": "no recovery was seen to end",
    "target.window": "the recovery window was not read",
    "target.chain": "the WAL chain was not read",
    "copy.cluster": "no copy was made",
    "copy.quarantine": "no copy was made",
    "system.owner": "the profile names no owner",
    "system.data_class": "the profile names no data class",
    "controls.valid_until": "the profile sets no validity",
    "controls.next_due": "the schedule is not known to the run",
    "artefacts.signature": "a signature is about the record and so not in it: attestation.dsse.json is next to it where the profile names a key",
    "circumstances.clocks": "the clocks were not compared",
    "circumstances.archive_lag": "the archive lag was not measured",
    "circumstances.sampling": "nothing was sampled: the chosen tables were read in full",
    "circumstances.git": "the runbooks do not lie in a git repository",
    "circumstances.package_sha256": "the run did not note it",
    "circumstances.lock_sha256": "the environment's lock file was not found",
    "circumstances.paused_reconcilers": "no other controller was paused",
}

_BEFORE_3 = {
    "deviations.ticket": "no corrective action is linked",
    "deviations.retest": "no retest is linked",
}
"""Of runs that were opened with a schema before 3, whose records keep these two fields: neither can be known at the seal."""


def record(events: Sequence[Event]) -> dict[str, Any]:
    """The record as JSON; pure: equal events give an equal record, no matter who computes it and whenever.

    Works on a journal that ends early too: the verdict then says what was not seen.
    """
    opened = (of_type(events, "opened") or [{}])[-1]
    closed = next(reversed(of_type(events, "closed")), None)
    judgement = judge(events) if closed else _not_closed(judge(events))
    noted = facts_noted(events)
    found: dict[str, Any] = {
        "record": {
            "id": opened.get("run_id"),
            "schema": SCHEMA,
            "previous": opened.get("previous") or None,
            "journal": {"events": len(events), "head_sha256": sha256(canonical(events[-1]) + b"\n") if events else ""},
        },
        "test": {
            "type": (noted.get("test") or {}).get("type") or "point-in-time recovery on a throwaway copy",
            "runbook": opened.get("runbook"),
            "mode": opened.get("mode"),
            "parameters": opened.get("parameters") or {},
            "notebook_sha256": opened.get("notebook_sha256") or None,
            "profile_sha256": (opened.get("site") or {}).get("profile_sha256"),
        },
        "who": {"actor": opened.get("actor"), "approver": _approvers(events) or noted.get("approver")},
        "when": _when(events, opened, closed),
        "system": {
            "site": (opened.get("site") or {}).get("name"),
            "environment": (opened.get("site") or {}).get("environment"),
            "caveats": (opened.get("site") or {}).get("caveats") or [],
            "cluster": (opened.get("cluster") or {}) | (noted.get("cluster") or {}),
            "owner": (opened.get("site") or {}).get("owner"),
            "data_class": (opened.get("site") or {}).get("data_class"),
        },
        "backup": noted.get("backup"),
        "target": {
            "requested": noted.get("target"),
            "reached": noted.get("reached"),
            "window": noted.get("window"),
            "chain": noted.get("chain"),
        },
        "copy": {"cluster": noted.get("copy"), "quarantine": noted.get("quarantine")},
        "versions": (opened.get("versions") or {}) | (noted.get("versions") or {}),
        "objectives": {
            "enforced": bool((opened.get("objectives") or {}).get("enforce")),
            "measured": objectives(events),
        },
        "checks": _checks(events),
        "verdict": _verdict(events, judgement, closed),
        "deviations": _deviations(events, opened, closed, judgement),
        "cleanup": _cleanup(events, opened),
        "controls": {"references": opened.get("controls") or [], "valid_until": None, "next_due": None},
        "artefacts": _artefacts(events),
        "not_tested": opened.get("not_tested") or [],
        "circumstances": {
            "identity_strength": (opened.get("actor") or {}).get("strength"),
            "clocks": noted.get("clocks"),
            "archive_lag": noted.get("archive_lag"),
            "git": opened.get("git") or None,
            "lock_sha256": opened.get("lock_sha256"),
            "waiting_at_gates_seconds": sum(p["seconds"] for p in _phases(events) if p["name"] == "waiting at gates"),
            "sampling": noted.get("sampling"),
            "paused_reconcilers": noted.get("paused_reconcilers"),
        },
        "steps": _steps(events),
        "facts": {name: value for name, value in sorted(noted.items()) if name not in _GROUPED},
    }
    schema = int(opened.get("schema") or 1)
    if later := schema >= 2:  # a record of an earlier run stays what it is
        found["who"]["requester"] = _requester(found["test"]["parameters"])
        found["circumstances"]["package_sha256"] = opened.get("package_sha256") or None
    if len(attempts := gates.targets(events)) > 1:  # a record without another target has no such key
        found["target"]["attempts"] = attempts
    if noted.get("forecast"):
        found["forecast"] = forecast_vs_actual.compare(noted["forecast"], found)
    if schema < 3:
        found["deviations"] |= dict.fromkeys(("ticket", "retest"))
    reasons = ABSENT | (_BEFORE_3 if schema < 3 else {})
    found["absent"] = {path: reason for path, reason in sorted(reasons.items()) if _at(found, path) is None}
    if not later:
        for path in ("who.requester", "circumstances.package_sha256"):
            del found["absent"][path]
    return found


def _requester(parameters: Mapping[str, Any]) -> dict[str, str] | None:
    """The person who asked for the run and the ticket, as they were typed; None if nobody was named."""
    name, ticket = (str(parameters.get(key) or "") for key in ("requested_by", "ticket"))
    return {"name": name, "ticket": ticket} if name or ticket else None


def _approvers(events: Sequence[Event]) -> list[dict[str, Any]] | None:
    """Each gate: who approved that plan, by the API server's own answer, how and when; None if there was no gate."""
    passed = {gate["digest"]: gate for gate in gates.confirmed(events)}
    found: dict[str, dict[str, Any]] = {}
    for event in of_type(events, "waiting"):
        digest = str(event["digest"])
        given = [{key: one[key] for key in ("actor", "how", "at")} for one in gates.approvals(events, digest)]
        asked = {"section": event["section"], "digest": digest, "approvals": given, "waited_seconds": None, "at": None}
        found[digest] = asked | {"confirmed": False} | passed.get(digest, {})
    for digest, gate in passed.items():
        found[digest] = found.get(digest, {}) | gate | {"confirmed": True}
    return list(found.values()) or None


def _not_closed(judgement: Judgement) -> Judgement:
    """All looks well so far, but nobody has said that it was all."""
    if judgement.verdict is not Verdict.VERIFIED:
        return judgement
    cause = Cause(Verdict.UNPROVEN, "the run is not closed")
    return Judgement(cause.verdict, "unproven", cause.what, (cause,))


def _at(found: Mapping[str, Any], path: str) -> Any:
    value: Any = found
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _without(event: Event, *more: str) -> dict[str, Any]:
    """An event's data without what belongs to the journal."""
    hidden = {"seq", "prev", "type", *more}
    return {key: value for key, value in event.items() if key not in hidden}


def _phases(events: Sequence[Event]) -> list[dict[str, Any]]:
    return [_without(event, "at") for event in of_type(gates.current(events), "phase")]


def _when(events: Sequence[Event], opened: Event, closed: Event | None) -> dict[str, Any]:
    started, ended = opened.get("at"), closed["at"] if closed else None
    seconds = None
    if started and ended:
        seconds = (datetime.fromisoformat(ended) - datetime.fromisoformat(started)).total_seconds()
    return {
        "planned_at": opened.get("planned_at") or None,
        "started_at": started,
        "finished_at": ended,
        "seconds": seconds,
        "phases": _phases(events),
        "attempts": [_without(event) for event in of_type(events, "attempt")],
    }


def _checks(events: Sequence[Event]) -> list[dict[str, Any]]:
    seen = [_without(event) for event in of_type(gates.current(events), "check")]
    missing = [
        {
            "name": name,
            "proves": "",
            "verdict": "UNPROVEN",
            "required": True,
            "expected": "",
            "observed": "",
            "reason": "not run",
            "seconds": 0.0,
            "details": [],
        }
        for name in not_run(events)
    ]
    return seen + (missing if (of_type(events, "opened") or [{}])[-1].get("mode") != "plan" else [])


def _verdict(events: Sequence[Event], judgement: Judgement, closed: Event | None) -> dict[str, Any]:
    finished = of_type(gates.current(events), "step_finished")
    errors = [{"n": event["n"]} | event["error"] for event in finished if event.get("error")]
    return {
        "verdict": None if judgement.verdict is None else str(judgement.verdict),
        "outcome": judgement.outcome,
        "headline": judgement.headline,
        "reasons": judgement.reasons,
        "closed_by": closed.get("by") if closed else None,
        "errors": errors,
    }


def _deviations(events: Sequence[Event], opened: Event, closed: Event | None, judgement: Judgement) -> dict[str, Any]:
    findings = [
        f"a writer died midway: {event['bytes']} bytes of a broken line before event {event['seq']}"
        for event in of_type(events, "torn")
    ]
    said, shown = (closed or {}).get("verdict"), None if judgement.verdict is None else str(judgement.verdict)
    if closed and said != shown:
        findings.append(f"the run was closed as {said or 'no verdict'}; the whole journal shows {shown or 'none'}")
    plans: dict[str, str] = {}
    for event in of_type(events, "waiting"):
        if plans.setdefault(event["section"], event["digest"]) != event["digest"]:
            findings.append(f"the plan of {event['section']!r} changed while it waited: the earlier phrase was void")
            plans[event["section"]] = event["digest"]
    for event in of_type(events, "attempt"):
        digest, source = event.get("notebook_sha256"), opened.get("notebook_sha256")
        if digest and source and digest != source:
            findings.append(f"attempt {event['n']} ran a notebook that differs from the one that was opened")
    if (opened.get("git") or {}).get("dirty"):
        findings.append("the working tree had changes that are in no commit")
    suppressed = [
        {"name": event["name"], "reason": event.get("reason") or "not required"}
        for event in of_type(events, "check")
        if event["verdict"] == "n/a" or not event.get("required", True)
    ]
    return {"findings": findings, "not_counted": suppressed}


def _cleanup(events: Sequence[Event], opened: Event) -> dict[str, Any]:
    settled = {event["id"]: event for event in of_type(events, "settled")}
    rows = []
    for event in {event["id"]: event for event in of_type(events, "obligation")}.values():
        end = settled.get(event["id"])
        rows.append(
            {key: event.get(key) for key in ("id", "what", "kind", "namespace", "name", "uid")}
            | {"made_at": event["at"], "settled_at": end["at"] if end else None}
            | {"how": end.get("how") if end else None, "proof": end.get("proof") if end else None}
            | ({"undo": event["undo"]} if event.get("undo") else {})
        )
    return {"proven": not unsettled(events), "obligations": rows, "expires_at": opened.get("expires_at") or None}


def _artefacts(events: Sequence[Event]) -> dict[str, Any]:
    notebooks = [
        {"file": event.get("notebook"), "sha256": event.get("sha256"), "notebook_sha256": event.get("notebook_sha256")}
        for event in of_type(events, "attempt")
    ]
    logs = [_without(event) for event in of_type(events, "log")]
    return {"sums": "SHA256SUMS", "logs": logs, "notebooks": notebooks, "signature": None}


def _steps(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Each step once, as it ended last; one that did not end has the status ``open``."""
    steps: dict[Any, dict[str, Any]] = {}
    for event in events:
        if event["type"] == "step_started":
            begun = {"started_at": event["at"], "status": "open", "seconds": None, "result": None, "error": None}
            steps[event["n"]] = _without(event, "at") | begun
        elif event["type"] == "step_finished" and event["n"] in steps:
            steps[event["n"]] |= _without(event, "at", "n")
    return list(steps.values())
