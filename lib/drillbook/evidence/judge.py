"""What a journal's events add up to: the verdict, computed from what was seen and from nothing else.

Of a step that a later attempt did again only the last attempt counts. The verdict is the worst of

1. every required check, where a required check that was never seen is UNPROVEN;
2. every step that failed (its error's verdict) or was started and not seen to finish (UNPROVEN);
3. every obligation that is not proven settled (UNPROVEN), an attempt that did not complete, a run that was abandoned
   or superseded (UNPROVEN);
4. the objectives, where the profile enforces them: missed is FAILED, not measured is UNPROVEN.

A run that asserts nothing is UNPROVEN. A plan, a run that was refused before anything changed, and a run that waits for
a confirmation have no verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drillbook.evidence import gates
from drillbook.evidence.facts import Achieved, Facts, facts
from drillbook.model import Verdict, show_seconds

Event = Mapping[str, Any]

_WAITING = "ConfirmationRequired"
_CONSEQUENCE = "PreconditionsNotMet"  # a step that was not started because of checks, which speak for themselves


@dataclass(frozen=True)
class Cause:
    """One thing that keeps a run from being VERIFIED; ``rank`` orders causes of the same verdict."""

    verdict: Verdict
    what: str
    rank: int = 0


@dataclass(frozen=True)
class Judgement:
    """``outcome`` is verified, failed or unproven; or planned, refused or waiting, and then ``verdict`` is None."""

    verdict: Verdict | None
    outcome: str
    headline: str
    causes: tuple[Cause, ...] = ()

    @property
    def reasons(self) -> list[str]:
        """The causes in words, the worst first."""
        return [cause.what for cause in self.causes]


def of_type(events: Iterable[Event], type: str) -> list[Event]:
    """The events of one type, in order."""
    return [event for event in events if event["type"] == type]


def unsettled(events: Sequence[Event]) -> list[Event]:
    """The obligations that no later event settles, in order."""
    open_ones: dict[str, Event] = {}
    for event in events:
        if event["type"] == "obligation":
            open_ones[event["id"]] = event
        elif event["type"] == "settled":
            open_ones.pop(event["id"], None)
    return list(open_ones.values())


def belongs(check: Event, required: str) -> bool:
    """Whether a check's result answers a required check: by its name, or by a name that begins ``<required>:``."""
    return str(check["name"]) == required or str(check["name"]).startswith(f"{required}:")


def not_run(events: Sequence[Event]) -> list[str]:
    """The required checks that have no result."""
    required = (of_type(events, "opened") or [{}])[-1].get("required") or []
    checks = of_type(gates.current(events), "check")
    return [name for name in required if not any(belongs(check, name) for check in checks)]


def objectives(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Each objective compared with what was achieved, in seconds; ``met`` is None if there is nothing to compare."""
    goals = (of_type(events, "opened") or [{}])[-1].get("objectives") or {}
    learned = facts(events)
    achieved, lag = learned.achieved or Achieved(), learned.archive_lag
    # What a loss would have cost is known as soon as the archive lag is, even if nothing was recovered.
    point = (
        achieved.recovery_point_seconds
        if "recovery_point_seconds" in achieved.model_fields_set
        else lag and lag.seconds
    )
    recovery = achieved.recovery_seconds
    in_time = achieved.pitr_seconds if "pitr_seconds" in achieved.model_fields_set else recovery
    pairs = [
        ("recovery time", goals.get("rto_seconds"), recovery),
        ("recovery point", goals.get("rpo_seconds"), point),
        ("point-in-time recovery", goals.get("pitr_seconds"), in_time),
    ]
    # A journal without a forecast gives no such key: older records stay what they are.
    predicted = learned.forecast.seconds if learned.forecast else None
    forecasts = {"recovery time": {"forecast_seconds": predicted}} if predicted is not None else {}
    return [
        {
            "name": name,
            "objective_seconds": goal,
            "achieved_seconds": seconds,
            "met": None if goal is None or seconds is None else seconds <= goal,
        }
        | forecasts.get(name, {})
        for name, goal, seconds in pairs
        if goal is not None or seconds is not None
    ]


def judge(events: Sequence[Event]) -> Judgement:
    """The verdict of a run whose journal holds ``events``; pure, and never raises on a journal that ends early."""
    opened = (of_type(events, "opened") or [{}])[-1]
    if opened.get("mode") == "plan":
        return _judge_plan(events)
    gate = gates.waiting(events)
    if gate is not None and not of_type(events, "closed"):
        return Judgement(None, "waiting", f"Waiting for a confirmation: {gate['section']}: {gate['reason']}")
    events = gates.current(events)
    failures = [event for event in of_type(events, "step_finished") if event["status"] in ("failed", "refused")]
    errors = [event.get("error") or {} for event in failures]
    if errors and errors[-1].get("type") == _WAITING:
        return Judgement(None, "waiting", f"Waiting for a confirmation: {errors[-1].get('what', '')}")
    refusals = [error for error in errors if "verdict" in error and error["verdict"] is None]
    if refusals and not _changed_anything(events):
        return Judgement(None, "refused", f"Refused, and nothing was changed: {_first_line(refusals[0])}")

    checks = [check for check in of_type(events, "check") if check.get("required", True)]
    verdicts = [Verdict(check["verdict"]) for check in checks]
    causes = [*_causes_of_checks(checks), *_causes_of_steps(events), *_causes_of_ends(events)]
    causes += _causes_of_objectives(events, bool((opened.get("objectives") or {}).get("enforce")))
    if missing := not_run(events):
        causes.append(Cause(Verdict.UNPROVEN, f"not run: {', '.join(missing)}", 5))
    verdict = Verdict.worst(verdicts + [cause.verdict for cause in causes])
    if verdict is Verdict.UNPROVEN and not causes:
        causes.append(Cause(Verdict.UNPROVEN, "no required check was seen: nothing is asserted about the data"))
    causes.sort(key=lambda cause: (cause.verdict is not Verdict.FAILED, cause.rank))
    headline = (
        _verified(events, opened, verdicts.count(Verdict.VERIFIED))
        if verdict is Verdict.VERIFIED
        else _headline(causes)
    )
    return Judgement(verdict, str(verdict).lower(), headline, tuple(causes))


def _judge_plan(events: Sequence[Event]) -> Judgement:
    finished = of_type(events, "step_finished")
    broken = [event for event in finished if event["status"] in ("failed", "refused")]
    if broken:
        error = broken[0].get("error") or {}
        return Judgement(None, "refused", f"The plan stops at step {broken[0]['n']}: {_first_line(error)}")
    planned = sum(event["status"] == "planned" for event in finished)
    over = "".join(f"; {_superseded(event)}" for event in of_type(events, "superseded")[-1:])
    only = f", {planned} of them planned only" if planned else ""
    return Judgement(None, "planned", f"{len(finished)} steps{only}; nothing was changed{over}")


def _superseded(event: Event) -> str:
    return f"superseded by run {event['by']}, which was opened in its place"


def _changed_anything(events: Sequence[Event]) -> bool:
    if of_type(events, "obligation"):
        return True
    effects = {event["n"]: event.get("effect") for event in of_type(events, "step_started")}
    for event in of_type(events, "step_finished"):
        changes = effects.get(event["n"], "reads") != "reads"
        if event["status"] == "done" and changes:
            return True
        if event["status"] == "failed" and (event.get("error") or {}).get("changed", "nothing") != "nothing":
            return True
    return False


def _causes_of_checks(checks: Iterable[Event]) -> Iterator[Cause]:
    for check in checks:
        verdict = Verdict(check["verdict"])
        if verdict in (Verdict.FAILED, Verdict.UNPROVEN):
            # A check that waited for a failed step is a consequence; the step speaks for itself.
            rank = 5 if str(check.get("reason") or "").startswith("not run:") else 0
            yield Cause(verdict, f"{check['name']}: {show_difference(check)}", rank)


def show_difference(check: Mapping[str, Any]) -> str:
    """What a check expected and observed, or why it did not."""
    expected, observed, reason = (str(check.get(key) or "") for key in ("expected", "observed", "reason"))
    if check["verdict"] == Verdict.UNPROVEN and reason and not observed:
        return reason
    both = f"expected {expected}, observed {observed}" if expected and observed else ""
    seen = both or observed or expected or "no details"
    return f"{seen} ({reason})" if reason else seen


def _causes_of_steps(events: Sequence[Event]) -> Iterator[Cause]:
    finished = {event["n"] for event in of_type(events, "step_finished")}
    for event in of_type(events, "step_finished"):
        if event["status"] in ("failed", "refused"):
            error = event.get("error") or {}
            known = error.get("verdict") in (Verdict.FAILED, Verdict.UNPROVEN)
            verdict = Verdict(error["verdict"]) if known else Verdict.UNPROVEN
            rank = 4 if error.get("type") == _CONSEQUENCE else 1
            # Step 0 is the opening itself: who asks, and the Lease.
            where = f"step {event['n']}" if event["n"] else "opening the run"
            yield Cause(verdict, f"{where}: {_first_line(error)}", rank)
    for event in of_type(events, "step_started"):
        if event["n"] not in finished:
            yield Cause(Verdict.UNPROVEN, f"step {event['n']} ({event['title']}) was started and not seen to finish", 1)


def _causes_of_ends(events: Sequence[Event]) -> Iterator[Cause]:
    left = [event["id"] for event in unsettled(events)]
    if left:
        yield Cause(Verdict.UNPROVEN, f"clean-up not proven: {', '.join(left)}", 2)
    attempts = of_type(events, "attempt")
    # A notebook ends with an error too when a step failed, or when its last cell closed a run that isn't VERIFIED.
    told = any(event["status"] in ("failed", "refused") for event in of_type(events, "step_finished"))
    told = told or any(event.get("by") == "notebook" for event in of_type(events, "closed"))
    how = attempts[-1]["how"] if attempts else ""
    if how in ("kernel died", "timeout", "interrupted") or (how == "error" and not told):
        detail = f": {attempts[-1]['error']}" if attempts[-1].get("error") else ""
        yield Cause(Verdict.UNPROVEN, f"the notebook did not complete ({how}{detail})", 3)
    for event in of_type(events, "superseded")[-1:]:
        yield Cause(Verdict.UNPROVEN, f"{_superseded(event)}: nothing was changed", -1)
    for event in of_type(events, "abandoned")[-1:]:
        yield Cause(Verdict.UNPROVEN, f"the run was abandoned by {event['actor'].get('username') or 'somebody'}", 1)
    if of_type(events, "closed") and of_type(events, "closed")[-1].get("by") == "cleanup":
        yield Cause(Verdict.UNPROVEN, "the run did not end by itself; clean-up closed it", 3)


def _causes_of_objectives(events: Sequence[Event], enforced: bool) -> Iterator[Cause]:
    for item in objectives(events) if enforced else []:
        if item["objective_seconds"] is None:
            continue
        goal = show_seconds(item["objective_seconds"])
        if item["met"] is None:
            yield Cause(Verdict.UNPROVEN, f"{item['name']} was not measured, its objective is {goal}", 3)
        elif not item["met"]:
            achieved = show_seconds(item["achieved_seconds"])
            yield Cause(Verdict.FAILED, f"{item['name']} was {achieved}, its objective is {goal}", 2)


def _first_line(error: Mapping[str, Any]) -> str:
    return " ".join(str(error.get("what") or error.get("type") or "no message").split())


def _headline(causes: Sequence[Cause]) -> str:
    first, *more = causes
    worst = [cause for cause in more if cause.verdict is first.verdict and cause.rank < 4]
    also = f" ({len(worst)} more {'cause' if len(worst) == 1 else 'causes'})" if worst else ""
    return f"{first.what}{also}"


def _verified(events: Sequence[Event], opened: Event, checks: int) -> str:
    learned = facts(events)
    cluster = (learned.cluster.name if learned.cluster else (opened.get("cluster") or {}).get("name")) or "The cluster"
    only_read = opened.get("objectives") == {}  # as a runbook that recovers nothing is opened
    usual = f"{cluster} was checked" if only_read else _restored(cluster, learned)
    claim = learned.claim or usual
    missed = [item["name"] for item in objectives(events) if item["met"] is False]
    but = f", but missed its objective: {', '.join(missed)}" if missed else ""
    hold = "the one required check holds" if checks == 1 else f"all {checks} required checks hold"
    return f"{claim}; {hold}{but}"


def _restored(cluster: str, learned: Facts) -> str:
    """What a run that says nothing else has shown: a restore."""
    time = learned.target.target.target_time if learned.target else None
    seconds = learned.achieved.recovery_seconds if learned.achieved else None
    restored = f"{cluster} was restored" + (f" to {time[:19].replace('T', ' ')} UTC" if time else "")
    return restored + (f" in {show_seconds(seconds)}" if seconds is not None else "")
