"""What a journal says of gates and attempts: what waits, who approved which plan, which events an attempt made void.

Pure functions over events: the run, the command line, the verdict and the record all ask the same questions here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

Event = Mapping[str, Any]

# A step that is done again in a later attempt speaks for itself: what its interrupted attempt said is void.
_OF_A_STEP = {"step_started", "step_finished", "check", "phase"}


def opening(events: Sequence[Event]) -> Event | None:
    """The event that opened the run; None if it was ended before it began, with nothing touched."""
    return next((event for event in events if event["type"] == "opened"), None)


def current(events: Sequence[Event]) -> list[Event]:
    """The events that count: without those of a step that a later attempt did again. What was promised always counts."""
    if not any(event["type"] in ("resumed", "retargeted") for event in events):
        return list(events)
    events = _of_the_last_target(events)
    last = {event["n"]: index for index, event in enumerate(events) if event["type"] == "step_started"}
    resumed = max((index for index, event in enumerate(events) if event["type"] == "resumed"), default=-1)
    found: list[Event] = []
    void: Any = None
    for index, event in enumerate(events):
        kind = event["type"]
        if kind in ("step_started", "resumed"):
            void = event.get("n") if kind == "step_started" and last[event["n"]] != index else None
        # How an earlier attempt ended, or failed to open, says nothing about how the run ended.
        over = index < resumed and (kind == "attempt" or (kind == "step_finished" and event["n"] == 0))
        if not over and (void is None or kind not in _OF_A_STEP):
            found.append(event)
        if kind == "step_finished" and event["n"] == void:
            void = None
    return found


def _of_the_last_target(events: Sequence[Event]) -> list[Event]:
    """Without what was done for an earlier target: the step that read it, and those after it."""
    found = list(events)
    for event in [event for event in events if event["type"] == "retargeted"]:
        at, n = found.index(event), 0
        kept = []
        for earlier in found[:at]:
            n = earlier["n"] if earlier["type"] == "step_started" else n
            if earlier["type"] not in _OF_A_STEP or n < event["n"]:
                kept.append(earlier)
        found = kept + found[at:]
    return found


def targets(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Each target that the run has recovered to or was to: as it was asked for, as it was resolved, and its copy."""
    opened = opening(events) or {}
    found = [{"attempt": 1, "parameters": dict(opened.get("parameters") or {}), "actor": opened.get("actor")}]
    for event in events:
        if event["type"] == "retargeted":
            found.append({key: event[key] for key in ("attempt", "parameters", "actor", "at")})
        elif event["type"] == "fact" and event["name"] in ("target", "copy"):
            found[-1][event["name"]] = event["value"]
    return found


def parameters(events: Sequence[Event]) -> dict[str, Any]:
    """The run's parameters, with the target that it goes for now."""
    now: dict[str, Any] = {}
    for one in targets(events):
        now |= one["parameters"]
    return now


def not_restorable(events: Sequence[Event]) -> str:
    """Why no other process can go on with the run from here, said before anybody confirms anything; "" if one can."""
    for event in current(events):
        if event["type"] == "step_finished" and event.get("not_restorable"):
            return (
                f"no other process can go on from here, because the result of step {event['n']} can't be restored "
                f"({event['not_restorable']}): confirm in this kernel, or remove the cause and begin again"
            )
    return ""


def attempt(events: Sequence[Event]) -> int:
    """The number of the attempt that wrote last, from 1."""
    return 1 + len([event for event in events if event["type"] == "resumed"])


def waiting(events: Sequence[Event]) -> Event | None:
    """The gate at which the run stands: its last ``waiting``, unless it went on or ended since."""
    found: Event | None = None
    for event in events:
        if event["type"] == "waiting":
            found = event
        elif event["type"] in ("confirmed", "step_started", "abandoned", "superseded", "retargeted"):
            found = None
    return found


def approvals(events: Sequence[Event], digest: str) -> list[Event]:
    """The approvals of the plan with this digest, each person's first, in order."""
    found: dict[str, Event] = {}
    for event in events:
        if event["type"] == "approved" and event["digest"] == digest:
            found.setdefault(str(event["actor"]["username"]), event)
    return list(found.values())


def refusal(given: Sequence[Event], actor: Mapping[str, Any], people: int) -> str:
    """Why ``actor`` can't approve in addition to those who have (``given``); "" if it is welcome."""
    who = str(actor["username"])
    if people > 1 and actor.get("strength") != "api":
        return (
            f"two people are demanded, and who {who or 'you'} are is only declared: the API server did not say so "
            f"(identity: {actor.get('strength') or 'unknown'})"
        )
    if any(event["actor"]["username"] == who for event in given):
        more = ": another person must approve" if people > len(given) else ""
        return f"{who} has approved this plan already{more}"
    return ""


def missing(given: Sequence[Event], people: int) -> int:
    """How many people's approvals are still missing; where two are demanded only the API server's own answers count."""
    counted = [event for event in given if people == 1 or event["actor"].get("strength") == "api"]
    return max(0, people - len(counted))


def confirmed(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Each gate that was passed: the section, its digest, who approved it, and how long the run waited."""
    found: dict[str, dict[str, Any]] = {}
    for event in events:
        if event["type"] == "confirmed":
            keys = ("section", "digest", "approvals", "waited_seconds")
            found.setdefault(str(event["digest"]), {key: event[key] for key in keys} | {"at": event["at"]})
    return list(found.values())


def confirmed_for_another_target(events: Sequence[Event], section: str, steps: Sequence[str]) -> Event | None:
    """The confirmation of the same steps (by digest) before the run's target was changed: it needs no second one.

    A person who gives another target has seen the copy for the first one; the measures stand already and are only
    found again.
    """
    last = max((index for index, event in enumerate(events) if event["type"] == "retargeted"), default=0)
    for event in events[:last]:
        same = event["type"] == "confirmed" and event["section"] == section
        if same and [step["digest"] for step in event["steps"]] == list(steps):
            return event
    return None


def deadline(events: Sequence[Event]) -> datetime | None:
    """Until when a run that stopped keeps what it made: the gate's own, else from its last event on."""
    gate = waiting(events)
    if gate is not None:
        return datetime.fromisoformat(gate["deadline"])
    opened = opening(events) or {}
    patience = opened.get("patience")
    if not patience or not events:
        return None
    last = datetime.fromisoformat(str(events[-1]["at"]))
    return datetime.fromtimestamp(last.timestamp() + float(patience["deadline_seconds"]), last.tzinfo)


def point_of_no_return(events: Sequence[Event]) -> str:
    """The title of the step that began behind which nothing is undone by itself; "" if none has, or the run has ended.

    One that failed and is known to have changed nothing doesn't count.
    """
    begun: dict[tuple[int, int], str] = {}
    attempts = 0
    for event in events:
        key = (attempts, event.get("n", 0))
        if event["type"] == "resumed":
            attempts += 1
        elif event["type"] == "step_started" and event.get("point_of_no_return"):
            begun[key] = str(event["title"])
        elif event["type"] == "step_finished" and (event.get("error") or {}).get("changed") == "nothing":
            begun.pop(key, None)
        elif event["type"] == "closed":
            return ""
    return next(iter(begun.values()), "")


def resumable(events: Sequence[Event]) -> bool:
    """Whether the run is of a kind that is left as it is when it stops, and has not ended."""
    opened = opening(events) or {}
    ended = any(event["type"] == "closed" for event in events)
    return bool(opened.get("patience")) and opened.get("mode") == "apply" and not ended
