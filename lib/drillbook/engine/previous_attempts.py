"""What earlier attempts of a run left in its journal, as the attempt that resumes it needs it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from drillbook.engine.alive import alive
from drillbook.errors import NotResumable
from drillbook.evidence import Journal, gates, plain
from drillbook.evidence.facts import facts
from drillbook.evidence.judge import of_type, unsettled
from drillbook.model import Check
from drillbook.profile import Site

Event = Mapping[str, Any]


@dataclass
class PreviousStep:
    """A step as it ended last; ``complete`` ones are taken from the journal."""

    n: int
    step: str
    title: str
    effect: str
    plan: dict[str, Any] | None
    section: Mapping[str, Any] | None
    seen_at: str = ""
    status: str = "open"
    result: Any = None
    lost: str = ""
    checks: list[Check] = field(default_factory=list)
    promised: set[str] = field(default_factory=set)

    @property
    def complete(self) -> bool:
        return self.status == "done"


class PreviousAttempts:
    """The journal of a run that is being resumed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events = Journal(folder / "journal.jsonl").events()
        self.run_id = folder.name
        opened = gates.opening(self.events)
        if opened is None:
            self.refuse(
                "it ended before it began, and nothing was touched", f"{folder} may be deleted; start a new run."
            )
        self.opened = opened
        self.parameters = gates.parameters(self.events)
        self.facts = facts(self.events)
        self.steps = _steps(gates.current(self.events), _promised(self.events))
        self.open_promises = {event["id"] for event in unsettled(self.events)}

    # -- may it go on? ---------------------------------------------------------------------------

    def require_resumable(self) -> None:
        """Raise NotResumable if the run has ended, is running, or has results that this process can't have."""
        if self.opened["mode"] != "apply":
            self.refuse("it is a plan: nothing was begun", "Run the plan again.")
        if of_type(self.events, "closed"):
            self.refuse("it has ended", f"`drillbook verify {self.run_id}` checks its evidence.")
        self.require_not_alive()
        lost = next((step for step in self.steps.values() if step.complete and step.lost), None)
        if lost is not None:
            self.refuse(f"the result of step {lost.n} ({lost.title}) can't be restored: {lost.lost}")

    def require_not_alive(self, what: str = "resumed") -> None:
        """Raise NotResumable while a kernel has the run open."""
        if alive(self.folder):
            raise NotResumable(
                f"run {self.run_id} can't be {what} while its kernel runs: it is still open in a running kernel",
                todo="Go on there, or shut that kernel down.",
            )

    def require_same(self, *, profile: Site, notebook_sha256: str, given: Mapping[str, Any], runbook: str) -> None:
        """Raise NotResumable unless parameters, profile and notebook are those with which the run was begun.

        The profile's limits may be others: who waits longer than was thought raises them.
        """
        if runbook != self.opened["runbook"]:
            self.refuse(f"it is a run of {self.opened['runbook']}, not of {runbook}")
        begun = {key: value for key, value in self.parameters.items() if key != "site"}
        now = {key: plain(value) for key, value in given.items() if key != "site"}
        other = sorted(key for key in begun.keys() | now.keys() if begun.get(key) != now.get(key))
        if other:
            self.refuse(f"it was begun with other parameters ({', '.join(other)})")
        begun_with = self.opened["site"]
        known, lasting = begun_with.get("lasting_sha256"), profile.lasting_digest
        if lasting != known if known else profile.digest != begun_with["profile_sha256"]:
            self.refuse("the site's profile was changed since it was begun, in more than its limits")
        if (before := self.opened.get("notebook_sha256")) and notebook_sha256 != before:
            self.refuse("the notebook is not the one with which it was begun, or was changed since")

    def refuse(self, why: str, todo: str = "", *, verb: str = "resumed") -> NoReturn:
        """Raise NotResumable; nothing was changed."""
        raise NotResumable(
            f"run {self.run_id} can't be {verb}: {why}",
            todo=todo or f"Start a new run; `drillbook abandon {self.run_id}` undoes what this one has left.",
        )

    # -- what is known ---------------------------------------------------------------------------

    def section(self, title: str, steps: list[str]) -> tuple[Event, dict[int, PreviousStep]] | None:
        """The confirmation of a section that has begun, and those of its steps that have, by their place in it."""
        confirmed = [
            event
            for event in of_type(self.events, "confirmed")
            if event["section"] == title and [part["step"] for part in event["steps"]] == steps
        ]
        digests = {event["digest"] for event in confirmed}
        begun = {
            int(step.section["part"]): step
            for step in self.steps.values()
            if step.section and step.section["digest"] in digests
        }
        return (confirmed[-1], begun) if begun else None

    @property
    def destruction_has_begun(self) -> bool:
        """Whether a step of a confirmed section was started."""
        return any(step.section for step in self.steps.values())

    def ended_by_itself(self, step: PreviousStep) -> bool:
        """Whether all that the step promised to undo has been undone since: its effect is over."""
        return bool(step.promised) and not step.promised & self.open_promises

    def interrupted_section(self) -> str:
        """The digest of the section in which a step was started and not finished, "" if there isn't one."""
        last = next((step for step in reversed(self.steps.values()) if step.status == "open"), None)
        return str((last.section or {}).get("digest", "")) if last else ""


def _steps(events: list[Event], promised: Mapping[int, set[str]]) -> dict[int, PreviousStep]:
    found: dict[int, PreviousStep] = {}
    for event in events:
        kind = event["type"]
        if kind == "step_started":
            n, plan, section = event["n"], event.get("plan"), event.get("section")
            found[n] = PreviousStep(n, event["step"], event["title"], event["effect"], plan, section)
            found[n].promised = promised.get(n, set())
        elif kind == "step_finished" and event["n"] in found:
            step = found[event["n"]]
            step.status, step.result, step.seen_at = event["status"], event["result"], event["at"]
            step.lost = str(event.get("not_restorable") or "")
        elif kind == "check" and event.get("n") in found:
            fields = {name: event[name] for name in Check.model_fields if name in event}
            found[event["n"]].checks.append(Check.model_validate(fields))
    return found


def _promised(events: Iterable[Event]) -> dict[int, set[str]]:
    """What each step has promised to undo, in any attempt: one that is done again keeps its first promise."""
    found: dict[int, set[str]] = {}
    n = 0
    for event in events:
        if event["type"] == "step_started":
            n = event["n"]
        elif event["type"] in ("step_finished", "resumed"):
            n = 0
        elif event["type"] == "obligation" and n:
            found.setdefault(n, set()).add(event["id"])
    return found
